"""What is made of a run once its rounds are over, wherever it ran: summary, figures and the report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedfuse.configuration import Configuration
from fedfuse.report.figures import draw_figures
from fedfuse.report.html import write_report
from fedfuse.summary import ClientFacts, write_summary
from fedfuse.tracking.tracker import Trackers


def conclude(
    directory: Path,
    configuration: Configuration,
    clients: Sequence[ClientFacts],
    class_names: Sequence[str],
    trackers: Trackers,
) -> dict[str, Any]:
    """Write ``summary.json``, the figures and ``report.html``, and tell the trackers.

    Parameters
    ----------
    directory : Path
        The directory of the run.
    configuration : Configuration
        What ran.
    clients : Sequence[ClientFacts]
        All clients, with what is known of each here.
    class_names : Sequence[str]
        The names of the classes.
    trackers : Trackers
        Those that followed the run.

    Returns
    -------
    dict
        The summary, see `fedfuse.summary.write_summary`.
    """
    summary = write_summary(directory, _names(configuration), clients, class_names)
    figures = draw_figures(directory, summary)
    write_report(directory)
    trackers.end(summary, figures)
    return summary


def _names(configuration: Configuration) -> dict[str, object]:
    return {
        "strategy": configuration.strategy.name,
        "data": configuration.data.name,
        "partition": configuration.partition.name,
        "partition_arguments": dict(configuration.partition.arguments),
        "model": [model.name for model in configuration.model],
        "privacy": [protector.name for protector in configuration.privacy],
        "num_clients": configuration.num_clients,
        "seed": configuration.seed,
    }
