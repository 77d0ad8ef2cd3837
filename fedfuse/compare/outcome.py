"""What became of one run of a comparison, read from its directory."""

import json
from dataclasses import dataclass
from pathlib import Path

from fedfuse.compare.plan import RUNS, Run
from fedfuse.results import METRICS_FILE
from fedfuse.summary import SUMMARY_FILE, read_summary


@dataclass(frozen=True)
class Measures:
    """What a run came to; accuracies are the mean of the last five rounds, never the best round.

    Parameters
    ----------
    own_test : float or None
        Mean accuracy of the clients on their own test data; None where no client told.
    global_test : float or None
        Mean accuracy of the clients on the global test set.
    worst_10_percent : float or None
        Accuracy on own test data of the tenth of clients with the lowest.
    sent_bytes : float
        Bytes of knowledge, up and down, in all rounds.
    seconds : float
        Wall time of all rounds.
    """

    own_test: float | None
    global_test: float | None
    worst_10_percent: float | None
    sent_bytes: float
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What is known of a run: its measures once it has finished, or why it failed; neither while it is not over."""

    measures: Measures | None = None
    error: str | None = None


def run_directory(directory: Path, run: Run) -> Path:
    """Say where a run of the comparison in a directory has its files."""
    return directory / RUNS / run.folder


def log_path(directory: Path, run: Run) -> Path:
    """Say where everything stands that a run has printed."""
    return directory / "logs" / f"{run.folder}.log"


def read_measures(directory: Path, run: Run) -> Measures | None:
    """Read what a run came to; None unless it has finished all its rounds, and no more."""
    path = run_directory(directory, run)
    if not (path / SUMMARY_FILE).is_file():
        return None
    try:
        summary = read_summary(path)
    except json.JSONDecodeError:
        return None
    if summary["num_rounds"] != run.num_rounds:
        return None
    metrics = {name: values["mean_of_last_five"] for name, values in summary["metrics"].items()}
    return Measures(
        own_test=metrics["personal_mean"],
        global_test=metrics["general_mean"],
        worst_10_percent=metrics["personal_worst_10_percent"],
        sent_bytes=summary["bytes_up"] + summary["bytes_down"],
        seconds=summary["seconds"].get("round", 0.0),
    )


def rounds_done(directory: Path, run: Run) -> int:
    """Count the rounds that a run has recorded so far."""
    try:
        return (run_directory(directory, run) / METRICS_FILE).read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0
