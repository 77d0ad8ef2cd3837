"""Train on private data by steps that bound what they tell of any one example, and keep the ledger of them."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.fit import FitJob, PrivateSteps, Stream, Term
from fedfuse.client.protect import UnprotectedError
from fedfuse.client.state import ClientState
from fedfuse.objectives.cross_entropy import CrossEntropy
from fedfuse.privacy.dp_sgd import DpSgd
from fedfuse.privacy.keystream import Keystream
from fedfuse.privacy.training_accountant import Steps, epsilon_of

logger = logging.getLogger(__name__)

# How many numbers decide at once who enters which step.
NUMBERS_AT_ONCE = 2**16


class DeltaTooLargeError(Exception):
    """A client has so many training examples that its guarantee would allow to give one of them away."""


def private_training(settings: ClientSettings) -> DpSgd | None:
    """Return the protector that trains privately, if there is one."""
    return next((protector for protector in settings.protectors if isinstance(protector, DpSgd)), None)


def private_jobs(
    protector: DpSgd, clients: Sequence[Client], states: Sequence[ClientState], round: int, settings: ClientSettings
) -> tuple[list[FitJob], list[ClientState]]:
    """Plan one round of private training: cross-entropy on the client's own labels, and nothing beside it.

    Returns
    -------
    jobs : list[FitJob]
        What to train.
    states : list[ClientState]
        With these steps on their ledgers.

    Raises
    ------
    DeltaTooLargeError
        If the number of a client's training examples is above ``1 / delta``.
    UnprotectedError
        If the noise was calibrated to fewer rounds when the client trained before.
    """
    jobs, charged = [], []
    for client, state in zip(clients, states, strict=True):
        num_examples = len(client.data.train)
        if not protector.suits(num_examples):
            raise DeltaTooLargeError(f"delta={protector.delta:g} is above one over {num_examples} training examples")
        assert settings.exposure is not None, "a guarantee is for a run of known size"
        steps = protector.steps_of(num_examples, settings.exposure)
        spent = _charge(state.privacy.spent, steps, protector)
        charged.append(replace(state, privacy=replace(state.privacy, spent=spent)))
        if logger.isEnabledFor(logging.INFO):
            epsilon = spent_by(charged[-1], protector.delta, "rdp")
            logger.info("client %d, round %d: epsilon %.4g is spent", client.client_id, round, epsilon)
        jobs.append(_job(client, state, steps, protector, round, settings))
    return equally_wide(jobs), charged


def spent_by(state: ClientState, delta: float, accountant: str) -> float:
    """Compute the privacy loss of all that a client has trained so far: its epsilon at this delta."""
    return epsilon_of(state.privacy.spent, delta, accountant)


def _charge(spent: tuple[Steps, ...], steps: Steps, protector: DpSgd) -> tuple[Steps, ...]:
    """Add steps to a ledger."""
    rate, noise_multiplier, number = steps
    if number == 0:
        return spent
    if protector.epsilon is not None and any(before < noise_multiplier for _, before, _ in spent):
        raise UnprotectedError("asked to train for more rounds than the noise so far was calibrated to")
    if spent and spent[-1][:2] == (rate, noise_multiplier):
        return (*spent[:-1], (rate, noise_multiplier, spent[-1][2] + number))
    return (*spent, steps)


def _job(
    client: Client, state: ClientState, steps: Steps, protector: DpSgd, round: int, settings: ClientSettings
) -> FitJob:
    rate, noise_multiplier, number = steps
    train, key = client.data.train, state.privacy.key
    purpose = f"of round {round}, answering {state.privacy.answered}"
    plan = poisson_plan(Keystream(key, f"private samples {purpose}"), len(train), rate, number)
    return FitJob(
        architecture=client.architecture,
        parameters=state.parameters,
        streams={"private": Stream({"inputs": train.inputs, "labels": train.labels}, plan)},
        terms=(Term("private", CrossEntropy()),),
        optimizer=settings.learn.optimizer,
        objective_state=state.objective_state,
        proximal=settings.learn.proximal,
        private=PrivateSteps(
            clip=protector.clip,
            noise_multiplier=noise_multiplier,
            expected_batch_size=max(1.0, rate * len(train)),
            noise=Keystream(key, f"private noise {purpose}"),
        ),
    )


def equally_wide(jobs: Sequence[FitJob]) -> list[FitJob]:
    """Pad the batches of all jobs to the widest, so that they can be taken together."""
    widest = max(job.streams["private"].plan.shape[1] for job in jobs)
    padded = []
    for job in jobs:
        stream = job.streams["private"]
        plan = torch.nn.functional.pad(stream.plan, (0, widest - stream.plan.shape[1]), value=-1)
        padded.append(replace(job, streams={"private": replace(stream, plan=plan)}))
    return padded


def poisson_plan(keystream: Keystream, num_samples: int, rate: float, num_steps: int) -> Tensor:
    """Let every sample enter every step with the same probability, independently.

    Parameters
    ----------
    keystream : Keystream
        What is drawn from.
    num_samples, num_steps : int
        How many there are.
    rate : float
        The probability, in (0, 1].

    Returns
    -------
    Tensor
        int64 ``[num_steps, B]``, where B is the size of the largest batch, or 1: ascending row numbers, padded with -1.
    """
    # A draw is uniform on the whole numbers below 2**64; rounded down, the rate is not exceeded.
    limit = int(rate * 2**64)
    batches: list[NDArray[np.int64]] = []
    at_once = max(1, NUMBERS_AT_ONCE // max(1, num_samples))
    for first in range(0, num_steps, at_once):
        steps = min(at_once, num_steps - first)
        # Compared one below, because 2**64 itself is no such number.
        enters = keystream.integers(steps * num_samples) <= np.uint64(limit - 1)
        batches += [chosen.nonzero()[0] for chosen in enters.reshape(steps, num_samples)]
    plan = np.full((num_steps, max(map(len, batches), default=1) or 1), -1)
    for row, batch in zip(plan, batches, strict=True):
        row[: len(batch)] = batch
    return torch.from_numpy(plan)
