"""What a user sees while a comparison goes on: a table that fills in a terminal, a line a run everywhere else."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedfuse.compare.comparison import Comparison
from fedfuse.compare.outcome import Outcome
from fedfuse.compare.plan import Run
from fedfuse.compare.table import METHOD_NOTES, difference_table, differences, error_lines, measure_table
from fedfuse.report.table import format_percent

REDRAWS_A_SECOND = 4


class Display(Protocol):
    """Shows the progress of a comparison; a context manager."""

    def __enter__(self) -> Self:
        """Start to show."""

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the screen as it should stay."""

    def compared(self, comparison: Comparison) -> None:
        """Show the numbers so far."""

    def under_way(self, rounds: Mapping[Run, int]) -> None:
        """Show how many rounds each run under way has done."""

    def run_ended(self, number: int, total: int, run: Run, outcome: Outcome) -> None:
        """Show that a run has ended, the so-manieth of all."""


def make_display(console: Console) -> Display:
    """Choose the display that suits a console: the table needs a terminal that can move its cursor."""
    return LiveDisplay(console) if console.is_interactive else PlainDisplay(console)


class PlainDisplay:
    """A line for every run that has ended, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def compared(self, comparison: Comparison) -> None:
        """Print nothing: the tables come at the end."""

    def under_way(self, rounds: Mapping[Run, int]) -> None:
        """Print nothing: a log holds what has ended."""

    def run_ended(self, number: int, total: int, run: Run, outcome: Outcome) -> None:
        """Print the line of the run."""
        print_line(self._console, run_line(number, total, run, outcome))


class LiveDisplay:
    """The table of all methods, redrawn by a thread of its own; the lines of failed runs stay above it.

    Parameters
    ----------
    console : Console
        A terminal that can move its cursor.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._comparison: Comparison | None = None
        self._rounds: Mapping[Run, int] = {}
        self._live = Live(
            get_renderable=self._table, console=console, refresh_per_second=REDRAWS_A_SECOND, transient=True
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def compared(self, comparison: Comparison) -> None:
        """Store the numbers."""
        self._comparison = comparison

    def under_way(self, rounds: Mapping[Run, int]) -> None:
        """Store the rounds."""
        self._rounds = rounds

    def run_ended(self, number: int, total: int, run: Run, outcome: Outcome) -> None:
        """Print the line of a run that has failed; the others are in the table."""
        if outcome.error is not None:
            print_line(self._console, run_line(number, total, run, outcome))

    def _table(self) -> Table | Text:
        return Text("") if self._comparison is None else measure_table(self._comparison, self._rounds)


def run_line(number: int, total: int, run: Run, outcome: Outcome) -> str:
    """Say in one line how a run has ended: ``[ 3/18] knfu-seed=0  own test 93.5 %  global test 81.2 %  12.3 s``."""
    start = f"[{number:>{len(str(total))}}/{total}] {run.folder}"
    measures = outcome.measures
    if measures is None:
        return f"{start}  failed: {outcome.error}"
    own, general = format_percent(measures.own_test), format_percent(measures.global_test)
    return f"{start}  own test {own} %  global test {general} %  {measures.seconds:.1f} s"


def print_comparison(console: Console, comparison: Comparison, directory: Path) -> None:
    """Print both tables, what failed, what a reader must know, and where the files are."""
    console.print()
    console.print(measure_table(comparison))
    console.print()
    if any(differences(block) for block in comparison.blocks):
        console.print(Text("Difference to local only", style="bold"))
        console.print(difference_table(comparison))
        console.print()
    for line in (*error_lines(comparison), *METHOD_NOTES, f"Files: {directory}"):
        print_line(console, line)


def print_line(console: Console, text: str) -> None:
    """Print a text as it is, however long."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
