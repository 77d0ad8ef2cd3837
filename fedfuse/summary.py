"""What a whole run came to: the last round, the mean of the last five, and every client before and after.

No round is ever chosen by its result on test data.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from fedfuse.errors import ConfigurationError
from fedfuse.metrics import Spread, flat, spread_of
from fedfuse.results import LOCAL_ONLY, read_clients, read_metrics, write_text

SUMMARY_FILE = "summary.json"
ROUNDS_AVERAGED = 5


@dataclass(frozen=True)
class ClientFacts:
    """What the summary says of a client besides its accuracy; None where that is not known to the server.

    Parameters
    ----------
    client_id : int
        Who.
    model : str
        The name of its model.
    num_examples : int or None
        The size of its training data.
    label_counts : tuple of int, or None
        The number of its training examples of each class.
    """

    client_id: int
    model: str
    num_examples: int | None
    label_counts: tuple[int, ...] | None


def write_summary(
    directory: Path,
    configuration: Mapping[str, Any],
    clients: Sequence[ClientFacts],
    class_names: Sequence[str] = (),
) -> dict[str, Any]:
    """Summarise the rounds recorded in a directory, and in its ``local_only`` if any, in ``summary.json``.

    Parameters
    ----------
    directory : Path
        The directory of the run.
    configuration : mapping
        What names the run: strategy, data, partition, seed and the like.
    clients : sequence of ClientFacts
        All clients of the run, also those that never took part.
    class_names : sequence of str
        The names of the classes that ``label_counts`` count, where they are known.

    Returns
    -------
    dict
        ``configuration``; ``num_rounds``; ``class_names``;
        ``metrics`` (by name: ``last`` and ``mean_of_last_five``);
        ``clients`` (a dict a client: ``client_id``, ``model``, ``num_examples``, ``label_counts``,
        ``local_only_accuracy``, ``personal_accuracy``, ``gain``, ``general_accuracy``, each accuracy the
        latest that is known);
        ``spread`` (``local_only`` and ``federated``, of each ``personal`` and ``general``: a
        `fedfuse.metrics.Spread` as a dict, or None. Where both runs have values, both are over the clients
        that have a value in both, so that they compare. Where a guarantee lets only means be told, only they
        are not None);
        ``bytes_up``, ``bytes_down`` and ``seconds`` by verb, in total.
    """
    metrics = read_metrics(directory)
    federated, local_only = _latest(directory), _latest(directory / LOCAL_ONLY)
    of_both = read_metrics(directory / LOCAL_ONLY), metrics
    personal = _compare(local_only, federated, "personal_accuracy") or _means(of_both, "personal_mean")
    general = _compare(local_only, federated, "general_accuracy") or _means(of_both, "general_mean")
    seconds: dict[str, float] = {}
    for line in metrics:
        for verb, duration in line["seconds"].items():
            seconds[verb] = seconds.get(verb, 0.0) + duration
    names = [
        *flat("personal", None),
        *flat("general", None),
        "validation_mean",
    ]
    summary = {
        "configuration": dict(configuration),
        "num_rounds": metrics[-1]["round"] if metrics else 0,
        "class_names": list(class_names),
        "metrics": {name: _last_and_mean([line[name] for line in metrics]) for name in names},
        "clients": [_client_row(client, local_only, federated) for client in clients],
        "spread": {
            "local_only": {"personal": personal[0], "general": general[0]},
            "federated": {"personal": personal[1], "general": general[1]},
        },
        "bytes_up": sum(line["bytes_up"] for line in metrics),
        "bytes_down": sum(line["bytes_down"] for line in metrics),
        "seconds": seconds,
    }
    write_text(directory, SUMMARY_FILE, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    return read_summary(directory)


def read_summary(directory: Path) -> dict[str, Any]:
    """Read ``summary.json`` (see `write_summary`).

    Raises
    ------
    ConfigurationError
        If there is none: the run did not end, or this is not the directory of a run.
    """
    path = directory / SUMMARY_FILE
    if not path.exists():
        raise ConfigurationError(f"{directory} has no {SUMMARY_FILE}: no run ended in this directory.")
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return summary


def _last_and_mean(by_round: Sequence[float | None]) -> dict[str, float | None]:
    recent = [value for value in by_round[-ROUNDS_AVERAGED:] if value is not None]
    return {
        "last": by_round[-1] if by_round else None,
        "mean_of_last_five": math.fsum(recent) / len(recent) if recent else None,
    }


def _latest(directory: Path) -> dict[str, dict[int, float]]:
    """Find the latest known value of each measure of each client."""
    latest: dict[str, dict[int, float]] = {"personal_accuracy": {}, "general_accuracy": {}}
    for _, clients in sorted(read_clients(directory).items()):
        for client in clients:
            for measure, values in latest.items():
                value = getattr(client, measure)
                if value is not None:
                    values[client.client_id] = value
    return latest


def _compare(
    local_only: dict[str, dict[int, float]], federated: dict[str, dict[int, float]], measure: str
) -> tuple[dict[str, float | None] | None, ...]:
    """Spread a measure over the same clients in both runs, or over all in the one run that has it."""
    before, after = local_only[measure], federated[measure]
    clients = before.keys() & after.keys() if before and after else before.keys() | after.keys()
    if not clients:
        return ()
    spreads = [spread_of(values.get(client) for client in sorted(clients)) for values in (before, after)]
    return tuple(None if spread is None else asdict(spread) for spread in spreads)


def _means(runs: tuple[list[dict[str, Any]], ...], name: str) -> tuple[dict[str, float | None] | None, ...]:
    """Take the means of the last rounds, of which no client's part is known."""
    means = [run[-1][name] if run else None for run in runs]
    unknown = dict.fromkeys(field.name for field in fields(Spread))
    return tuple(None if mean is None else unknown | {"mean": mean} for mean in means)


def _client_row(
    client: ClientFacts, local_only: dict[str, dict[int, float]], federated: dict[str, dict[int, float]]
) -> dict[str, Any]:
    before = local_only["personal_accuracy"].get(client.client_id)
    after = federated["personal_accuracy"].get(client.client_id)
    return {
        **asdict(client),
        "local_only_accuracy": before,
        "personal_accuracy": after,
        "gain": None if before is None or after is None else after - before,
        "general_accuracy": federated["general_accuracy"].get(client.client_id),
    }
