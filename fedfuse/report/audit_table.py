"""The table of what attacks found, as a run with audits ends with it."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from fedfuse.audit.audit import Finding
from fedfuse.report.table import ASCII_RULES

EXPLANATION = (
    "floor: an attacker who learnt nothing; control: the same attack on an unprotected, overfitted client. No power: "
    "the attack fails even there, so that it says nothing of this run."
)


def print_findings(console: Console, findings: Sequence[Finding]) -> None:
    """Print what attacks found, a row a finding, and how to read it."""
    table = Table(
        box=ASCII_RULES,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title="What attacks found",
        title_justify="left",
        title_style="bold",
    )
    for name in ("audit", "attacked", "measure"):
        table.add_column(name, overflow="fold")
    for name in ("value", "95 %", "floor", "control"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for finding in findings:
        table.add_row(finding.audit, finding.subject, finding.measure, *numbers(finding), finding.verdict)
    console.print()
    console.print(table)
    console.print()
    console.print(EXPLANATION, markup=False, highlight=False, soft_wrap=True)


def numbers(finding: Finding) -> tuple[str, str, str, str]:
    """Show value, confidence interval, floor and control."""
    interval = f"{format_number(finding.low)} to {format_number(finding.high)}"
    value, floor, control = map(format_number, (finding.value, finding.floor, finding.control))
    return value, interval, floor, control


def format_number(value: float) -> str:
    """Show a measure with three decimals below one, two above: ``0.123``, ``9.97``."""
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"
