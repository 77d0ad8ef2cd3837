"""The part of a report on accuracy by round: a chart for each kind of test data, and all numbers."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fedfuse.report import page
from fedfuse.report.chart import Line, line_chart
from fedfuse.report.numbers import number_cell, percent_cell
from fedfuse.report.page import Column, Html
from fedfuse.report.recorded_run import RecordedRun
from fedfuse.report.rounds_shown import known_by_round, note_on_thinning, thinned
from fedfuse.report.table import format_percent

KINDS = {"personal": "own test data", "general": "global test data"}
COLOURS: dict[str, Literal["accent", "second"]] = {"personal": "accent", "general": "second"}


def accuracy_by_round(run: RecordedRun) -> Html:
    """Draw the mean, the worst clients and the baseline by round; what no client told is left out."""
    shown = thinned(run.metrics)
    rounds = {line["round"] for line in shown}
    local_only = {line["round"]: line for line in run.local_only_metrics if line["round"] in rounds}
    charts = [
        _accuracy_chart(shown, local_only, kind)
        for kind in KINDS
        if any(line[f"{kind}_mean"] is not None for line in shown)
    ]
    if not charts:
        return page.paragraph("No client told its accuracy.") if run.metrics else page.NOTHING
    columns = [
        Column("round", is_number=True),
        Column("participants", is_number=True),
        Column("own test", is_number=True),
        Column("own test, worst 10 %", is_number=True),
        Column("own test, local only", is_number=True),
        Column("global test", is_number=True),
        Column("global test, local only", is_number=True),
    ]
    rows = []
    for line in shown:
        alone = local_only.get(line["round"], {})
        accuracies = [
            line["personal_mean"],
            line["personal_worst_10_percent"],
            alone.get("personal_mean"),
            line["general_mean"],
            alone.get("general_mean"),
        ]
        rows.append([number_cell(line["round"]), number_cell(line["participants"]), *map(percent_cell, accuracies)])
    numbers = page.table("Mean accuracy over the participants of each round, in per cent", columns, rows)
    return page.join(
        page.paragraph(
            "The mean is over the participants of a round, every client counting the same. Point at a round to read "
            "its numbers."
        ),
        *note_on_thinning(run.metrics, shown),
        page.side_by_side(*charts),
        page.details("All numbers by round", numbers),
    )


def _accuracy_chart(shown: Sequence[Mapping[str, Any]], local_only: Mapping[int, Mapping[str, Any]], kind: str) -> Html:
    mean, worst = known_by_round(shown, f"{kind}_mean"), known_by_round(shown, f"{kind}_worst_10_percent")
    alone = known_by_round(local_only.values(), f"{kind}_mean")
    lines = [
        Line("mean", mean, COLOURS[kind]),
        Line("mean of the worst 10 % of clients", worst, COLOURS[kind], "1.5 3"),
        Line("local only, mean", alone, "grey", "6 4"),
    ]
    lines = [line for line in lines if line.points]
    notes = {}
    for round in sorted(mean):
        known = [line for line in lines if round in line.points]
        values = [f"{line.name}: {format_percent(line.points[round])} %" for line in known]
        notes[round] = "\n".join([f"round {round}, {KINDS[kind]}", *values])
    last = max(mean)
    description = (
        f"Accuracy on {KINDS[kind]} by round. In round {last} the mean over clients is {format_percent(mean[last])} "
        "per cent"
    )
    # Where privacy is guaranteed, only means are recorded.
    if last in worst:
        description += f", and that of the worst 10 per cent of clients {format_percent(worst[last])} per cent"
    chart = line_chart(f"{description}.", lines, notes, "accuracy (%)", lambda value: f"{100 * value:g}")
    return page.join(page.heading(KINDS[kind].capitalize()), page.figure(chart))
