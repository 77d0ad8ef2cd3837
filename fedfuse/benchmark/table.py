"""What the benchmark prints: a line a cell while it goes on, and a table in the end."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedfuse.benchmark.cells import ROUND, WORKS, Cell
from fedfuse.benchmark.contestants import LOCAL, PLAIN_LOOP, RAY
from fedfuse.benchmark.measured import Measured, Outcome, spread
from fedfuse.report.table import ASCII_RULES, UNKNOWN

SCALED = "*"
WIDTH = 135  # characters of the table


def cell_in_words(cell: Cell) -> str:
    """Name a cell: ``mlp64, local training, 100 clients``."""
    return f"{cell.model}, {WORKS[cell.work]}, {cell.clients:,} clients"


def progress_line(number: int, total: int, outcome: Outcome) -> str:
    """Say in one line what came out in a cell, the so-manieth of all."""
    found = [
        f"{one.contestant} {format_number(spread(ratios)[0])}"
        for one in outcome.contestants
        if one.contestant != PLAIN_LOOP and (ratios := outcome.ratios(one.contestant))
    ]
    said = f"times the plain loop: {', '.join(found)}" if found else "nothing to compare"
    return f"[{number:>{len(str(total))}}/{total}] {cell_in_words(outcome.cell)}  {said}"


def outcome_table(outcomes: Sequence[Outcome]) -> Table:
    """Make the table: a row for each contestant in each cell, with medians and the smallest to the largest."""
    table = Table(box=ASCII_RULES, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("model", "work"):
        table.add_column(name, no_wrap=True)
    table.add_column("clients", justify="right", no_wrap=True)
    table.add_column("who", no_wrap=True)
    for name in ("seconds", "times the loop", "of a product", "start"):
        table.add_column(name, justify="right", no_wrap=True)
    for outcome in outcomes:
        for row, one in enumerate(outcome.contestants):
            cell = one.cell
            names = ("", "", "") if row else (cell.model, WORKS[cell.work], f"{cell.clients:,}")
            table.add_row(*names, *_cells(outcome, one), end_section=row == len(outcome.contestants) - 1)
    return table


def _cells(outcome: Outcome, one: Measured) -> tuple[str, ...]:
    ratios, share = outcome.ratios(one.contestant), outcome.share(one.contestant)
    return (
        one.contestant,
        _in_words(one.seconds) + (SCALED if one.is_scaled else " "),
        "1" if one.contestant == PLAIN_LOOP else _in_words(ratios) if ratios else UNKNOWN,
        UNKNOWN if share is None else f"{share:.1%}",
        f"{one.start:.1f} s",
    )


def _in_words(values: Sequence[float]) -> str:
    middle, low, high = map(format_number, spread(values))
    return f"{middle} ({low} to {high})"


def format_number(value: float) -> str:
    """Write a number with three digits, and whole from 1,000 on: 0.0123, 1.20, 45.6, 1,234."""
    return f"{value:,.0f}" if value >= 999.5 else f"{value:#.3g}".rstrip(".")


def notes(outcomes: Sequence[Outcome]) -> list[str]:
    """Say how to read the table, what was left out, and how far Flower's Ray runtime is behind."""
    lines = [
        "Medians (smallest to largest). All take turns, with one thread a process; the loop is the plain one.",
        "of a product: the rate of the models' operations, as a share of that of 1024x1024 matrices on one thread.",
        "start: from nothing to the end of the first turn, which counts nowhere else.",
    ]
    if any(one.is_scaled for outcome in outcomes for one in outcome.contestants):
        lines.append(f"{SCALED} So many clients take long: fewer were measured, and their time is scaled.")
    reasons = dict.fromkeys((one.contestant, one.reason) for outcome in outcomes for one in outcome.left_out)
    lines += [f"Left out: {contestant}: {reason}." for contestant, reason in reasons]
    for outcome in outcomes:
        ratios = outcome.ratios(LOCAL, RAY)
        if outcome.cell.work == ROUND and ratios:
            mark = SCALED if any(one.is_scaled for one in outcome.contestants) else ""
            lines.append(f"{cell_in_words(outcome.cell)}: {_in_words(ratios)} times as quick as Flower on Ray{mark}.")
    return lines


def print_outcomes(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Print the table and what belongs to it."""
    console.width = max(console.width, WIDTH)  # lines that a terminal breaks lose nothing, cells would
    console.print()
    console.print(outcome_table(outcomes))
    console.print()
    for line in notes(outcomes):
        print_line(console, line)


def print_line(console: Console, text: str) -> None:
    """Print a text as it is, however long."""
    console.print(Text(text), soft_wrap=True)
