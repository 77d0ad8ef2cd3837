"""The tables of a comparison: for a terminal, as Markdown, and as a file for a spreadsheet."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence

from rich.table import Table
from rich.text import Text

from fedfuse.compare.comparison import ACCURACIES, MEASURES, Block, Comparison, Row
from fedfuse.compare.plan import Run
from fedfuse.compare.statistics import Difference, Estimate
from fedfuse.report.table import ASCII_RULES, UNKNOWN, format_bytes, format_gain, format_percent

NAMES = {
    "own_test": "own test",
    "global_test": "global test",
    "worst_10_percent": "worst 10 %",
    "sent_bytes": "sent",
    "seconds": "seconds",
}
FORMATS: Mapping[str, Callable[[float], str]] = {
    "own_test": format_percent,
    "global_test": format_percent,
    "worst_10_percent": format_percent,
    "sent_bytes": format_bytes,
    "seconds": "{:.1f}".format,
}
MEASURE_HEADERS = ("method", "runs", *(NAMES[name] for name in MEASURES))
DIFFERENCE_HEADERS = ("measure", "method", "difference", "95 % interval", "p", "p (Holm)")

METHOD_NOTES = (
    "Accuracy in per cent on the clients' own test data, on the global test set, and of the tenth of clients that "
    "do worst on their own: the mean of the last five rounds, never the best round. Sent and seconds are of all "
    "rounds. Mean \N{PLUS-MINUS SIGN} sample standard deviation (n - 1) over seeds.",
    "Difference to local only, in percentage points: mean over seeds with its 95 % confidence interval, and p of a "
    "two-sided paired t-test over seeds. p (Holm) is adjusted for the number of methods in a setting, for each "
    "measure by itself; the interval is not adjusted.",
    "Seconds are wall time: runs at the same time slow one another down.",
)


def format_setting(setting: Iterable[str]) -> str:
    """Show what a setting varies; a comparison of methods and seeds alone has but one."""
    return ", ".join(setting) or "all runs"


def format_estimate(name: str, estimate: Estimate | None) -> str:
    """Show a measure: ``93.5 ± 2.1``, ``1.2 MB``, or ``-``; no spread for a single seed."""
    if estimate is None:
        return UNKNOWN
    show = FORMATS[name]
    spread = "" if estimate.std is None else f" \N{PLUS-MINUS SIGN} {show(estimate.std)}"
    return show(estimate.mean) + ("" if name == "sent_bytes" and estimate.std == 0 else spread)


def format_interval(difference: Difference) -> str:
    """Show a confidence interval in percentage points: ``[+1.0, +4.8]``."""
    if difference.low is None:
        return UNKNOWN
    return f"[{format_gain(difference.low)}, {format_gain(difference.high)}]"


def format_p(p: float | None, reason: str | None = None) -> str:
    """Show a chance: ``0.012``, ``< 0.001``, or ``-`` with the reason why there is none."""
    if p is None:
        return UNKNOWN if reason is None else f"{UNKNOWN} ({reason})"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def measure_cells(row: Row) -> list[str]:
    """Make the cells below `MEASURE_HEADERS`."""
    runs = f"{row.num_finished}/{len(row.runs)}"
    return [row.method, runs, *(format_estimate(name, row.estimates[name]) for name in MEASURES)]


def difference_cells(name: str, method: str, difference: Difference) -> list[str]:
    """Make the cells below `DIFFERENCE_HEADERS` for one of `ACCURACIES`."""
    return [
        NAMES[name],
        method,
        format_gain(difference.mean),
        format_interval(difference),
        format_p(difference.p, difference.reason),
        format_p(difference.adjusted_p),
    ]


def differences(block: Block) -> list[tuple[str, str, Difference]]:
    """List what is known of the differences to local only: each measure, and for it each method."""
    listed = [(name, row.method, row.differences.get(name)) for name in ACCURACIES for row in block.rows]
    return [(name, method, difference) for name, method, difference in listed if difference is not None]


def error_lines(comparison: Comparison) -> list[str]:
    """Say which methods failed, and why: a line for each reason."""
    settings: dict[tuple[str, str], list[str]] = {}
    for block in comparison.blocks:
        for row in block.rows:
            for error in row.errors:
                settings.setdefault((row.method, error), []).append(format_setting(block.setting))
    if len(comparison.blocks) == 1:
        return [f"{method} failed: {error}" for method, error in settings]
    return [f"{method} failed ({'; '.join(where)}): {error}" for (method, error), where in settings.items()]


def measure_table(comparison: Comparison, under_way: Mapping[Run, int] | None = None) -> Table:
    """Make the table of all measures, a row a method, for a terminal.

    Parameters
    ----------
    comparison : Comparison
        As far as it is.
    under_way : mapping of Run to int, optional
        The rounds done by each run under way: adds a column that says so.
    """
    table = _table(MEASURE_HEADERS, num_left=1)
    if under_way is not None:
        table.add_column("under way", no_wrap=True)
    for block in comparison.blocks:
        table.add_section()
        if block.setting:
            table.add_row(Text(format_setting(block.setting), style="bold"))
        for row in block.rows:
            cells = [Text(cell) for cell in measure_cells(row)]
            if under_way is not None:
                cells.append(_progress(row, under_way))
            table.add_row(*cells)
    return table


def difference_table(comparison: Comparison) -> Table:
    """Make the table of all differences to local only, for a terminal."""
    table = _table(DIFFERENCE_HEADERS, num_left=2)
    for block in comparison.blocks:
        table.add_section()
        if block.setting:
            table.add_row(Text(format_setting(block.setting), style="bold"))
        for name, method, difference in differences(block):
            table.add_row(*map(Text, difference_cells(name, method, difference)))
    return table


def to_markdown(comparison: Comparison, command: str) -> str:
    """Write all tables and notes as Markdown."""
    lines = ["# Comparison", "", f"`{command}`"]
    for block in comparison.blocks:
        lines += ["", f"## {_escape(format_setting(block.setting))}", ""]
        lines += _markdown_table(MEASURE_HEADERS, map(measure_cells, block.rows), num_left=1)
        cells = [difference_cells(*difference) for difference in differences(block)]
        if cells:
            lines += ["", "Difference to local only:", "", *_markdown_table(DIFFERENCE_HEADERS, cells, num_left=2)]
    notes = [*error_lines(comparison), *comparison.notes, *METHOD_NOTES]
    return "\n".join([*lines, "", *(f"- {_escape(note)}" for note in notes)]) + "\n"


def to_csv(comparison: Comparison) -> str:
    """Write a row a method and setting, with exact numbers: accuracies and differences are fractions."""
    keys = list(dict.fromkeys(word.partition("=")[0] for block in comparison.blocks for word in block.setting))
    header = [*keys, "method", "runs", "finished"]
    header += [f"{name}_{part}" for name in MEASURES for part in ("mean", "std")]
    parts = ("difference", "low", "high", "p", "p_holm")
    header += [f"{name}_{part}" for name in ACCURACIES for part in parts]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for block in comparison.blocks:
        values = {key: value for key, _, value in (word.partition("=") for word in block.setting)}
        for row in block.rows:
            cells: list[object] = [*(values.get(key) for key in keys), row.method, len(row.runs), row.num_finished]
            for estimate in row.estimates.values():
                cells += [None, None] if estimate is None else [estimate.mean, estimate.std]
            for name in ACCURACIES:
                one = row.differences.get(name)
                cells += [None] * 5 if one is None else [one.mean, one.low, one.high, one.p, one.adjusted_p]
            writer.writerow(cells)
    return text.getvalue()


def _table(headers: Sequence[str], num_left: int) -> Table:
    table = Table(box=ASCII_RULES, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for index, header in enumerate(headers):
        table.add_column(header, justify="left" if index < num_left else "right", overflow="fold")
    return table


def _progress(row: Row, under_way: Mapping[Run, int]) -> Text:
    parts = [f"seed {run.seed}: {under_way[run]}/{run.num_rounds}" for run in row.runs if run in under_way]
    if row.errors:
        parts.append("failed")
    return Text(", ".join(parts))


def _markdown_table(headers: Sequence[str], rows: Iterable[Sequence[str]], num_left: int) -> list[str]:
    marks = ["---" if index < num_left else "---:" for index in range(len(headers))]
    return [f"| {' | '.join(map(_escape, cells))} |" for cells in (headers, marks, *rows)]


def _escape(text: str) -> str:
    """Keep a text from being read as Markdown where that would break a table."""
    return text.replace("|", "\\|")
