"""A run as its directory tells it: what a report is made of, whether the run has ended or not."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedfuse.audit.audit import Finding
from fedfuse.audit.record import AUDITS_FILE, read_findings
from fedfuse.configuration import Configuration, from_yaml
from fedfuse.errors import ConfigurationError, FedfuseError
from fedfuse.results import (
    CLIENTS_FILE,
    GUARANTEES_FILE,
    LOCAL_ONLY,
    METRICS_FILE,
    RELEVANCE_FILE,
    SOFTWARE_FILE,
    read_clients,
    read_latest_relevance,
    read_metrics,
)
from fedfuse.summary import SUMMARY_FILE, read_summary

CONFIGURATION_FILE = "config.yaml"

Content = TypeVar("Content")
Spreads = dict[str, dict[str, float] | None]


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """What was recorded of a run, so far or in full.

    Parameters
    ----------
    configuration : Configuration
        What ran.
    last_recorded : datetime
        When the last round was recorded; before the first one, when the run began.
    is_finished : bool
        Whether there is a summary of all rounds that were recorded. If not, the numbers below are those so far.
    metrics, local_only_metrics : list of dict
        The lines of ``metrics.jsonl`` by round, of the run and of its baseline, which may have none.
    clients : list of dict
        As in `fedfuse.summary.write_summary`: who, with the latest accuracies; None for what is not known.
    local_only, federated : dict
        The spread over clients of ``personal`` and ``general`` accuracy, each a dict or None.
    class_names : list of str
        Of the classes that the clients' label counts count; may be empty.
    relevance : tuple or None
        The latest round with one, relevance ``[n, n]`` and client ids ``[n]``.
    guarantees : dict or None
        What ``guarantees.json`` says.
    software : dict
        The versions that ``software.json`` names; may be empty.
    findings : list of Finding or None
        What ``audits.json`` says that attacks found.
    """

    configuration: Configuration
    last_recorded: datetime
    is_finished: bool
    metrics: list[dict[str, Any]]
    local_only_metrics: list[dict[str, Any]]
    clients: list[dict[str, Any]]
    local_only: Spreads
    federated: Spreads
    class_names: list[str]
    relevance: tuple[int, NDArray[Any], NDArray[np.int64]] | None
    guarantees: dict[str, Any] | None
    software: dict[str, str]
    findings: list[Finding] | None


def is_run(directory: Path) -> bool:
    """Say whether a directory is that of a run: every run writes its configuration before its first round."""
    return (directory / CONFIGURATION_FILE).is_file()


def read_run(directory: Path) -> RecordedRun:
    """Read what the directory of a run holds.

    Raises
    ------
    ConfigurationError
        If it is not the directory of a run, or if a file in it is damaged.
    """
    if not is_run(directory):
        raise ConfigurationError(f"{directory} has no {CONFIGURATION_FILE}: it is not the directory of a run.")
    path, baseline = directory / CONFIGURATION_FILE, directory / LOCAL_ONLY
    configuration = _read(path, lambda: from_yaml(path.read_text(encoding="utf-8")))
    metrics = _read(directory / METRICS_FILE, lambda: read_metrics(directory))
    local_only_metrics = _read(baseline / METRICS_FILE, lambda: read_metrics(baseline))
    summary = _read(directory / SUMMARY_FILE, lambda: _summary(directory))
    # A run that is continued has the summary of its earlier end, which still says who the clients are.
    is_finished = summary is not None and bool(metrics) and summary["num_rounds"] == metrics[-1]["round"]
    if summary is not None and is_finished:
        clients = summary["clients"]
        local_only, federated = summary["spread"]["local_only"], summary["spread"]["federated"]
    else:
        # A baseline of fewer rounds says nothing yet about what federation is worth.
        is_even = len(local_only_metrics) == len(metrics)
        known = {} if summary is None else {client["client_id"]: client for client in summary["clients"]}
        clients = _clients_so_far(directory, baseline if is_even else None, known)
        local_only, federated = _spreads(local_only_metrics if is_even else []), _spreads(metrics)
    return RecordedRun(
        configuration=configuration,
        last_recorded=datetime.fromtimestamp((directory / METRICS_FILE if metrics else path).stat().st_mtime),
        is_finished=is_finished,
        metrics=metrics,
        local_only_metrics=local_only_metrics,
        clients=clients,
        local_only=local_only,
        federated=federated,
        class_names=[] if summary is None else summary["class_names"],
        relevance=_read(directory / RELEVANCE_FILE, lambda: read_latest_relevance(directory)),
        guarantees=_read(directory / GUARANTEES_FILE, lambda: _json(directory / GUARANTEES_FILE)),
        software=_read(directory / SOFTWARE_FILE, lambda: _json(directory / SOFTWARE_FILE) or {}),
        findings=_read(directory / AUDITS_FILE, lambda: read_findings(directory)),
    )


def _read(path: Path, read: Callable[[], Content]) -> Content:
    try:
        return read()
    except FedfuseError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    except Exception as error:  # JSON, CSV and NumPy's archives each fail in ways of their own
        raise ConfigurationError(f"{path} cannot be read ({type(error).__name__}): it is damaged.") from error


def _summary(directory: Path) -> dict[str, Any] | None:
    return read_summary(directory) if (directory / SUMMARY_FILE).exists() else None


def _json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _clients_so_far(
    directory: Path, baseline: Path | None, known: Mapping[int, dict[str, Any]]
) -> list[dict[str, Any]]:
    before = {} if baseline is None else _latest_accuracies(baseline)
    after = _latest_accuracies(directory)
    clients = []
    for client_id in sorted(after.keys() | known.keys()):
        local_only, _ = before.get(client_id, (None, None))
        personal, general = after.get(client_id, (None, None))
        facts = known.get(client_id, {"model": None, "num_examples": None, "label_counts": None})
        accuracies = {
            "client_id": client_id,
            "local_only_accuracy": local_only,
            "personal_accuracy": personal,
            "gain": None if local_only is None or personal is None else personal - local_only,
            "general_accuracy": general,
        }
        clients.append(facts | accuracies)
    return clients


def _latest_accuracies(directory: Path) -> dict[int, tuple[float | None, float | None]]:
    """Find the latest known personal and general accuracy of each client."""
    latest: dict[int, tuple[float | None, float | None]] = {}
    for _, clients in sorted(_read(directory / CLIENTS_FILE, lambda: read_clients(directory)).items()):
        for client in clients:
            personal, general = latest.get(client.client_id, (None, None))
            latest[client.client_id] = (
                personal if client.personal_accuracy is None else client.personal_accuracy,
                general if client.general_accuracy is None else client.general_accuracy,
            )
    return latest


def _spreads(metrics: list[dict[str, Any]]) -> Spreads:
    """Take the spread over the clients of the last round."""
    spreads: Spreads = {"personal": None, "general": None}
    for kind in spreads:
        if metrics and metrics[-1][f"{kind}_mean"] is not None:
            names = ("mean", "std", "worst", "worst_10_percent")
            spreads[kind] = {name: metrics[-1][f"{kind}_{name}"] for name in names}
    return spreads
