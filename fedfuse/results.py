"""What a run writes to disk while it goes on: its directory, and its metrics by round and by client.

All functions take a directory, so a second run (the local-only baseline) is recorded in the same way in a
sub-directory of the first. Every file is either replaced as a whole or only appended to, so a run that is
killed leaves at worst one half-written last line, which `truncate` removes.
"""

import csv
import io
import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfuse import __version__
from fedfuse.errors import ConfigurationError
from fedfuse.metrics import ClientMetrics, RoundRecord, known_or_none, round_metrics, without_metrics

METRICS_FILE = "metrics.jsonl"
CLIENTS_FILE = "clients.csv"
RELEVANCE_FILE = "relevance.npz"
SOFTWARE_FILE = "software.json"
GUARANTEES_FILE = "guarantees.json"
LOCAL_ONLY = "local_only"
"""The sub-directory in which the local-only baseline of a run is recorded."""

MOST_CLIENTS_WITH_RELEVANCE_HISTORY = 256
"""With more clients than this, ``relevance.npz`` keeps the latest round only: a round takes n x n numbers."""


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
        if not is_new_or_empty(output):
            raise ConfigurationError(
                f"output={output} exists and is not empty. Use resume={output} to continue the run in it, "
                "or name another directory."
            )
        output.mkdir(parents=True, exist_ok=True)
        return output
    return new_directory(Path("outputs", _path_name(strategy), _path_name(data)))


def new_directory(parent: Path) -> Path:
    """Make a directory that nobody else has, named by the time: ``<YYYY-MM-DD_HH-MM-SS>-<n>``."""
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


def software() -> dict[str, str]:
    """Name the versions on which exact results depend."""
    return {
        "fedfuse": __version__,
        "torch": version("torch"),
        "numpy": version("numpy"),
        "flwr": version("flwr"),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def is_new_or_empty(path: Path) -> bool:
    """Tell whether a directory can be made here, or is here already and empty."""
    return not path.exists() or (path.is_dir() and next(path.iterdir(), None) is None)


def write_text(directory: Path, name: str, text: str) -> None:
    """Write a file of a run as a whole: whoever reads it sees the old text or the new one, never a part."""
    _replace(directory / name, text.encode())


def append_round(
    directory: Path, record: RoundRecord, spent: Mapping[str, float] | None = None, only_means: bool = False
) -> dict[str, Any]:
    """Record one round: a line of ``metrics.jsonl``, the rows of ``clients.csv``, its ``relevance.npz``.

    The line of ``metrics.jsonl`` is written last, so a round that has one is recorded completely. A run that
    is to be resumed calls this before it writes the checkpoint of the round.

    Parameters
    ----------
    directory : Path
        The run's directory.
    record : RoundRecord
        The round.
    spent : Mapping[str, float], optional
        The epsilon of all rounds so far, for each unit that is protected.
    only_means : bool
        Whether nothing is written of a single client's metrics, only means over all.

    Returns
    -------
    dict
        What the line holds.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / CLIENTS_FILE).open("a", encoding="utf-8", newline="") as file:
        file.write(_client_rows(without_metrics(record) if only_means else record, header=file.tell() == 0))
    if record.relevance is not None:
        _append_relevance(directory / RELEVANCE_FILE, record)
    metrics = round_metrics(record, only_means) | ({"epsilon": dict(spent)} if spent else {})
    with (directory / METRICS_FILE).open("a", encoding="utf-8", newline="") as file:
        file.write(json.dumps(metrics, allow_nan=False) + "\n")
    return metrics


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
        values = [known_or_none(getattr(client, name)) for name in names[1:]]
        writer.writerow([record.round, client.client_id, *values])
    return text.getvalue()


def _complete_lines(path: Path) -> list[str]:
    """Read the lines of a file that may be being written: a last line without its end is not there yet."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n")]
