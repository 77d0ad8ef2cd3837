"""What the benchmark leaves behind: ``bench.json`` with every number, and ``bench.png``."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedfuse import results
from fedfuse.benchmark.figure import draw_outcomes
from fedfuse.benchmark.measured import Measured, Outcome
from fedfuse.engine.workers import num_cores
from fedfuse.report.figures import DOTS_PER_INCH

JSON_FILE, FIGURE_FILE, LOG_FILE = "bench.json", "bench.png", "bench.log"


def write_json(directory: Path, outcomes: Sequence[Outcome]) -> None:
    """Write all numbers, as a whole."""
    facts = {"software": results.software(), "cores": num_cores(), "threads": 1, **facts_of(outcomes)}
    results.write_text(directory, JSON_FILE, json.dumps(facts, indent=1) + "\n")


def facts_of(outcomes: Sequence[Outcome]) -> Mapping[str, Any]:
    """List what was measured, and what was left out and why, in plain values."""
    return {
        "measured": [_row(outcome, one) for outcome in outcomes for one in outcome.measured],
        "left_out": [
            asdict(one.cell) | {"contestant": one.contestant, "reason": one.reason}
            for outcome in outcomes
            for one in outcome.left_out
        ],
    }


def _row(outcome: Outcome, one: Measured) -> dict[str, Any]:
    return asdict(one.cell) | {
        "contestant": one.contestant,
        "clients_measured": one.clients_measured,
        "start_s": one.start,
        "seconds": list(one.seconds),
        "median_s": one.median,
        "times_the_plain_loop": list(outcome.ratios(one.contestant)),
        "operations_a_second": one.rate,
        "of_a_matrix_product": outcome.share(one.contestant),
    }


def write_figure(directory: Path, outcomes: Sequence[Outcome]) -> None:
    """Draw the figure into its file, as a whole."""
    path = directory / FIGURE_FILE
    temporary = path.with_name(f".{FIGURE_FILE}")
    draw_outcomes(outcomes).savefig(temporary, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    temporary.replace(path)
