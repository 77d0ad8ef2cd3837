"""What attacks found, in the report of a run."""

from fedfuse.report import page
from fedfuse.report.audit_table import EXPLANATION, format_number, numbers
from fedfuse.report.page import Cell, Column, Html
from fedfuse.report.recorded_run import RecordedRun

COLUMNS = (
    Column("audit"),
    Column("attacked"),
    Column("measure"),
    Column("value", is_number=True),
    Column("95 % confidence"),
    Column("floor", is_number=True),
    Column("control", is_number=True),
    Column("verdict"),
)


def findings_table(run: RecordedRun) -> Html:
    """Make the table of all findings; nothing for a run that was not attacked."""
    if run.findings is None:
        return page.NOTHING
    rows = []
    for finding in run.findings:
        interval = numbers(finding)[1]
        verdict = Cell(finding.verdict, tone="bad" if finding.verdict == "leaks" else "")
        words = (Cell(finding.audit), Cell(finding.subject), Cell(finding.measure))
        floor, control = (Cell(format_number(value), value) for value in (finding.floor, finding.control))
        rows.append(
            (*words, Cell(format_number(finding.value), finding.value), Cell(interval), floor, control, verdict)
        )
    planted = (
        "What audits plant is in what clients train on and answer: the accuracies are not those of a run without them."
    )
    return page.join(
        page.table("What attacks on this run found", COLUMNS, rows),
        page.paragraph(EXPLANATION),
        page.paragraph(planted),
    )
