"""Measure which runner trains the clients of each architecture faster here, instead of going by a rule."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from fedfuse.client.client import Client, ClientSettings, first_state
from fedfuse.client.fit import Fit
from fedfuse.client.learn import learn
from fedfuse.engine import sequential, stacked
from fedfuse.engine.runner import choose_runner
from fedfuse.errors import ConfigurationError
from fedfuse.results import write_text

RUNNERS_FILE = "runners.json"
STEPS = 2
REPEATS = 3


def probe(
    clients: Sequence[Client], settings: ClientSettings, clock: Callable[[], float] = time.perf_counter
) -> dict[str, str]:
    """Train all clients of each architecture for two steps in both ways, and name the faster one.

    What is trained is thrown away. Of three times after a warm-up the shortest counts.

    Parameters
    ----------
    clients : Sequence[Client]
        All clients.
    settings : ClientSettings
        How every client works.
    clock : Callable
        Tells the seconds.

    Returns
    -------
    dict[str, str]
        By the signature of the architecture: ``"sequential"`` or ``"stacked"``.
    """
    cohorts: dict[str, list[Client]] = {}
    for client in clients:
        cohorts.setdefault(client.architecture.signature, []).append(_with_few_samples(client, settings))
    short = replace(settings, learn=replace(settings.learn, epochs=1))
    return {signature: _faster(cohort, short, clock) for signature, cohort in cohorts.items()}


def probed_once(clients: Sequence[Client], settings: ClientSettings, directory: Path) -> Mapping[str, str]:
    """Return what was measured when a run began, or measure it now and write it down: a resume must not choose again.

    Parameters
    ----------
    clients, settings
        See `probe`.
    directory : Path
        Of the run's checkpoint.

    Raises
    ------
    ConfigurationError
        If the file cannot be read.
    """
    path = directory / RUNNERS_FILE
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        write_text(directory, RUNNERS_FILE, json.dumps(probe(clients, settings), indent=2) + "\n")
    try:
        chosen: dict[str, str] = json.loads(path.read_text())
    except ValueError as error:
        raise ConfigurationError(f"{path} cannot be read; delete it to measure again.") from error
    return chosen


def _with_few_samples(client: Client, settings: ClientSettings) -> Client:
    train = client.data.train
    few = train.select(torch.arange(min(len(train), STEPS * settings.learn.batch_size)))
    return replace(client, data=replace(client.data, train=few))


def _faster(cohort: Sequence[Client], settings: ClientSettings, clock: Callable[[], float]) -> str:
    if choose_runner("stacked", cohort[0].architecture) is sequential.fit:
        return "sequential"
    alone, together = (_seconds(fit, cohort, settings, clock) for fit in (sequential.fit, stacked.fit))
    return "stacked" if together < alone else "sequential"


def _seconds(fit: Fit, cohort: Sequence[Client], settings: ClientSettings, clock: Callable[[], float]) -> float:
    states = [first_state(client, settings) for client in cohort]
    times = []
    for _ in range(1 + REPEATS):
        start = clock()
        learn(cohort, states, 0, settings, fit)
        times.append(clock() - start)
    return min(times[1:])
