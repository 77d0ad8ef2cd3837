"""What a run writes to disk: the directory of a run, its metrics by round and by client, and its summary.

All functions take a directory, so a second run (the local-only baseline) is recorded in the same way in a
sub-directory of the first. Every file is either replaced as a whole or only appended to, so a run that is
killed leaves at worst one half-written last line, which `truncate` removes. Accuracies are fractions, 0 to 1.
"""

import csv
import io
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfuse.errors import ConfigurationError

METRICS_FILE = "metrics.jsonl"
CLIENTS_FILE = "clients.csv"
RELEVANCE_FILE = "relevance.npz"
SUMMARY_FILE = "summary.json"
LOCAL_ONLY = "local_only"
"""The sub-directory in which the local-only baseline of a run is recorded."""

MOST_CLIENTS_WITH_RELEVANCE_HISTORY = 256
"""With more clients than this, ``relevance.npz`` keeps the latest round only: a round takes n x n numbers."""

ROUNDS_AVERAGED = 5


# What a round was


@dataclass(frozen=True)
class ClientMetrics:
    """How good one client was at the end of one round; None where it did not tell.

    Parameters
    ----------
    client_id : int
        Who.
    personal_accuracy : float or None
        Accuracy of the personal predictor on the client's own test data.
    general_accuracy : float or None
        Accuracy of the general predictor on the global test set, which no client trains on.
    validation_accuracy : float or None
        Accuracy of the personal predictor on the client's validation data.
    personal_loss : float or None
        Mean cross-entropy in nats where the personal accuracy was measured. A loss that is not finite counts
        as unknown.
    """

    client_id: int
    personal_accuracy: float | None
    general_accuracy: float | None
    validation_accuracy: float | None
    personal_loss: float | None


@dataclass(frozen=True)
class LeftOut:
    """A client whose reply was not used: in which phase (``share``, ``absorb`` or ``describe``), and why."""

    client_id: int
    phase: str
    reason: str


@dataclass(frozen=True, eq=False)
class RoundRecord:
    """Everything that is recorded of one round.

    Parameters
    ----------
    round : int
        Counted from 1.
    clients : tuple of ClientMetrics
        The participants that answered, by id.
    left_out : tuple of LeftOut
        The participants that did not, or whose answer was refused.
    bytes_up, bytes_down : int
        Bytes of knowledge from all clients to the server, and back.
    seconds : mapping of str to float
        Wall time of each verb (learn, express, protect, fuse, absorb, evaluate) and of the whole ``round``.
    relevance : ndarray or None
        ``[n, n]``, rows sum to one: how much each client (row) listened to each client (column).
    relevance_clients : tuple of int
        The ids of the ``n`` clients of the rows and columns of ``relevance``.
    """

    round: int
    clients: tuple[ClientMetrics, ...]
    left_out: tuple[LeftOut, ...]
    bytes_up: int
    bytes_down: int
    seconds: Mapping[str, float]
    relevance: NDArray[np.floating[Any]] | None
    relevance_clients: tuple[int, ...]


@dataclass(frozen=True)
class Spread:
    """How a measure is spread over clients.

    Parameters
    ----------
    mean, std : float
        Mean and population standard deviation; every client counts the same.
    worst : float
        The lowest value.
    worst_10_percent : float
        The mean of the ``ceil(n / 10)`` lowest values.
    """

    mean: float
    std: float
    worst: float
    worst_10_percent: float


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


def summarise(values: Sequence[float]) -> Spread:
    """Summarise one measure over clients.

    Raises
    ------
    ValueError
        If there are no values.
    """
    if len(values) == 0:
        raise ValueError("there is nothing to summarise: no client has a value")
    ascending = np.sort(np.asarray(values, dtype=np.float64))
    num_worst = -(-len(ascending) // 10)  # ceil(0.1 n) in floating point is 4 for n = 30
    return Spread(
        mean=float(ascending.mean()),
        std=float(ascending.std()),
        worst=float(ascending[0]),
        worst_10_percent=float(ascending[:num_worst].mean()),
    )


def round_metrics(record: RoundRecord) -> dict[str, Any]:
    """Make the flat line of ``metrics.jsonl`` for one round; what is unknown is None, never NaN.

    Returns
    -------
    dict
        ``round``, ``participants`` (how many answered), ``left_out`` (a dict a client), ``personal_`` and
        ``general_`` followed by ``mean``, ``std``, ``worst`` and ``worst_10_percent``, ``validation_mean``,
        ``bytes_up``, ``bytes_down`` and ``seconds`` by verb.
    """
    validation = _spread(client.validation_accuracy for client in record.clients)
    return {
        "round": record.round,
        "participants": len(record.clients),
        "left_out": [asdict(left_out) for left_out in record.left_out],
        **_flat("personal", _spread(client.personal_accuracy for client in record.clients)),
        **_flat("general", _spread(client.general_accuracy for client in record.clients)),
        "validation_mean": None if validation is None else validation.mean,
        "bytes_up": record.bytes_up,
        "bytes_down": record.bytes_down,
        "seconds": {verb: float(seconds) for verb, seconds in record.seconds.items()},
    }


# The directory of a run


def create_directory(output: Path | None, strategy: str, data: str) -> Path:
    """Make the directory of a new run.

    Parameters
    ----------
    output : Path or None
        Where the user wants it; it must be new or empty. None makes a directory of its own for every run,
        ``outputs/<strategy>/<data>/<YYYY-MM-DD_HH-MM-SS>-<n>``, also when several start at the same moment.
    strategy, data : str
        The names of what runs.

    Raises
    ------
    ConfigurationError
        If ``output`` holds something already.
    """
    if output is not None:
        if output.exists() and not (output.is_dir() and next(output.iterdir(), None) is None):
            raise ConfigurationError(
                f"output={output} exists and is not empty. Use resume={output} to continue the run in it, "
                "or name another directory."
            )
        output.mkdir(parents=True, exist_ok=True)
        return output
    parent = Path("outputs", _path_name(strategy), _path_name(data))
    parent.mkdir(parents=True, exist_ok=True)
    time = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    number = 1
    while True:
        directory = parent / f"{time}-{number}"
        try:
            directory.mkdir(exist_ok=False)  # atomic: of two runs that try the same name, one gets it
        except FileExistsError:
            number += 1
        else:
            return directory


def write_text(directory: Path, name: str, text: str) -> None:
    """Write a file of a run as a whole: whoever reads it sees the old text or the new one, never a part."""
    _replace(directory / name, text.encode())


def append_round(directory: Path, record: RoundRecord) -> None:
    """Record one round: a line of ``metrics.jsonl``, the rows of ``clients.csv``, its ``relevance.npz``.

    The line of ``metrics.jsonl`` is written last, so a round that has one is recorded completely. A run that
    is to be resumed calls this before it writes the checkpoint of the round.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / CLIENTS_FILE).open("a", encoding="utf-8", newline="") as file:
        file.write(_client_rows(record, header=file.tell() == 0))
    if record.relevance is not None:
        _append_relevance(directory / RELEVANCE_FILE, record)
    with (directory / METRICS_FILE).open("a", encoding="utf-8", newline="") as file:
        file.write(json.dumps(round_metrics(record), allow_nan=False) + "\n")


def truncate(directory: Path, last_round: int) -> None:
    """Drop what was recorded after a round, and a half-written last line, so that the run can go on there.

    What remains is, byte for byte, what was there when that round had been recorded. Only a relevance of
    which no more than the latest round is kept is gone until the next round is recorded.
    """
    _keep_lines(directory / METRICS_FILE, re.compile(rb'\{"round": (\d+),'), last_round, num_header_lines=0)
    _keep_lines(directory / CLIENTS_FILE, re.compile(rb"(\d+),"), last_round, num_header_lines=1)
    relevance = directory / RELEVANCE_FILE
    if relevance.exists():
        arrays = {name: array for name, array in _arrays(relevance).items() if _round_of(name) <= last_round}
        if arrays:
            _replace_arrays(relevance, arrays)
        else:
            relevance.unlink()


def write_summary(
    directory: Path,
    configuration: Mapping[str, Any],
    clients: Sequence[ClientFacts],
    class_names: Sequence[str] = (),
) -> dict[str, Any]:
    """Summarise the rounds recorded in a directory, and in its ``local_only`` if any, in ``summary.json``.

    No round is chosen by its result: the summary gives the last round, and the mean of the last five.

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
        ``spread`` (``local_only`` and ``federated``, of each ``personal`` and ``general``: a `Spread` as a
        dict, or None. Where both runs have values, both are over the clients that have a value in both, so
        that they compare);
        ``bytes_up``, ``bytes_down`` and ``seconds`` by verb, in total.
    """
    metrics = read_metrics(directory)
    federated, local_only = _latest(directory), _latest(directory / LOCAL_ONLY)
    personal = _compare(local_only, federated, "personal_accuracy")
    general = _compare(local_only, federated, "general_accuracy")
    seconds: dict[str, float] = {}
    for line in metrics:
        for verb, duration in line["seconds"].items():
            seconds[verb] = seconds.get(verb, 0.0) + duration
    names = [
        *_flat("personal", None),
        *_flat("general", None),
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


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """Read the lines of ``metrics.jsonl`` (see `round_metrics`) by round; none if nothing was recorded."""
    return [json.loads(line) for line in _complete_lines(directory / METRICS_FILE)]


def read_clients(directory: Path) -> dict[int, tuple[ClientMetrics, ...]]:
    """Read ``clients.csv``: the clients of each round, by round; none if nothing was recorded."""
    rounds: dict[int, tuple[ClientMetrics, ...]] = {}
    for row in csv.DictReader(_complete_lines(directory / CLIENTS_FILE)):
        number, client_id = int(row.pop("round")), int(row.pop("client_id"))
        values = {name: float(value) if value else None for name, value in row.items()}
        rounds[number] = (*rounds.get(number, ()), ClientMetrics(client_id, **values))
    return rounds


def read_latest_relevance(directory: Path) -> tuple[int, NDArray[Any], NDArray[np.int64]] | None:
    """Read the latest of ``relevance.npz``, if any: the round, relevance ``[n, n]``, client ids ``[n]``."""
    path = directory / RELEVANCE_FILE
    if not path.exists():
        return None
    with np.load(path) as archive:
        latest = max(_round_of(name) for name in archive.files)
        return latest, archive[f"round_{latest:04d}"], archive[f"clients_{latest:04d}"]


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


# Values


def _known(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _spread(values: Iterable[float | None]) -> Spread | None:
    known = [value for value in map(_known, values) if value is not None]
    return summarise(known) if known else None


def _flat(prefix: str, spread: Spread | None) -> dict[str, float | None]:
    return {
        f"{prefix}_{field.name}": None if spread is None else getattr(spread, field.name) for field in fields(Spread)
    }


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
) -> tuple[dict[str, float] | None, ...]:
    """Spread a measure over the same clients in both runs, or over all in the one run that has it."""
    before, after = local_only[measure], federated[measure]
    clients = before.keys() & after.keys() if before and after else before.keys() | after.keys()
    spreads = [_spread(values.get(client) for client in sorted(clients)) for values in (before, after)]
    return tuple(None if spread is None else asdict(spread) for spread in spreads)


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


# Files


def _path_name(name: str) -> str:
    """Make one path component of a name such as ``owner/data_set``."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "unnamed"


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)  # noqa: PTH105 - the name that says that it is atomic


def _keep_lines(path: Path, round_of: re.Pattern[bytes], last_round: int, num_header_lines: int) -> None:
    if not path.exists():
        return
    lines = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    kept = lines[:num_header_lines]
    for line in lines[num_header_lines:]:
        match = round_of.match(line)
        if match is not None and int(match[1]) <= last_round:
            kept.append(line)
    _replace(path, b"".join(kept))


def _replace_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    content = io.BytesIO()
    np.savez(content, **{name: arrays[name] for name in sorted(arrays)})
    _replace(path, content.getvalue())


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    if not path.exists():
        return {}
    with np.load(path) as archive:
        return dict(archive.items())


def _round_of(name: str) -> int:
    """Read the round in the name of an array: ``round_0001`` or ``clients_0001``."""
    return int(name.rpartition("_")[2])


def _append_relevance(path: Path, record: RoundRecord) -> None:
    too_many = len(record.relevance_clients) > MOST_CLIENTS_WITH_RELEVANCE_HISTORY
    arrays = {} if too_many else _arrays(path)
    arrays[f"round_{record.round:04d}"] = np.asarray(record.relevance)
    arrays[f"clients_{record.round:04d}"] = np.asarray(record.relevance_clients, dtype=np.int64)
    _replace_arrays(path, arrays)


def _client_rows(record: RoundRecord, header: bool) -> str:
    names = [field.name for field in fields(ClientMetrics)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(["round", *names])
    for client in record.clients:
        values = [_known(getattr(client, name)) for name in names[1:]]
        writer.writerow([record.round, client.client_id, *values])
    return text.getvalue()


def _complete_lines(path: Path) -> list[str]:
    """Read the lines of a file that may be being written: a last line without its end is not there yet."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n")]
