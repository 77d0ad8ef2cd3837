"""Which rounds of a long run a report shows, and their values."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedfuse.report import page
from fedfuse.report.page import Html

MOST_ROUNDS = 200


def thinned(metrics: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Keep the last of up to 200 rounds, and of more every k-th before it.

    Parameters
    ----------
    metrics : sequence of mapping
        The lines of ``metrics.jsonl``.
    """
    step = -(-len(metrics) // MOST_ROUNDS)
    return metrics if step <= 1 else metrics[::-step][::-1]


def note_on_thinning(metrics: Sequence[Any], shown: Sequence[Any]) -> list[Html]:
    """Say that rounds are not shown, if any is not."""
    if len(shown) == len(metrics):
        return []
    return [
        page.paragraph(f"Of {len(metrics)} rounds, {len(shown)} evenly spaced ones are shown; metrics.jsonl has all.")
    ]


def known_by_round(lines: Iterable[Mapping[str, Any]], name: str) -> dict[int, float]:
    """Map the rounds in which a value is known to that value."""
    return {line["round"]: line[name] for line in lines if line[name] is not None}
