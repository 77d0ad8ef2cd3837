"""What a user sees while a run goes on: one line that moves in a terminal, a line a round everywhere else."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedfuse.report.table import format_bytes, format_percent

REDRAWS_A_SECOND = 10
NARROWEST_BAR, WIDEST_BAR = 6, 30
MOST_CLIENTS_NAMED = 10


class Display(Protocol):
    """Shows the progress of a run; a context manager, entered once for all stages of the run."""

    def __enter__(self) -> Self:
        """Start to show."""

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the screen as it should stay."""

    def stage(self, name: str, num_rounds: int, first_round: int = 1) -> None:
        """Begin a stage (``local only``, ``federated``) that ends with round ``num_rounds``."""

    def verb(self, name: str, done: int, total: int) -> None:
        """Say that ``done`` of ``total`` clients are through with a verb; may be called for every client."""

    def round_finished(self, metrics: Mapping[str, Any]) -> None:
        """Show a finished round: a line of ``metrics.jsonl``, see `fedfuse.metrics.round_metrics`."""

    def note(self, text: str) -> None:
        """Show a line that stays, such as a client that was left out."""


def make_display(console: Console) -> Display:
    """Choose the display that suits a console: the moving line needs a terminal that can move its cursor."""
    return LiveDisplay(console) if console.is_interactive else PlainDisplay(console)


class PlainDisplay:
    """A line for every stage, round and note, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._num_rounds = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def stage(self, name: str, num_rounds: int, first_round: int = 1) -> None:
        """Print the name of the stage and its rounds."""
        self._num_rounds = num_rounds
        self.note(f"{name}: rounds {first_round} to {num_rounds}")

    def verb(self, name: str, done: int, total: int) -> None:
        """Print nothing: a log holds rounds."""

    def round_finished(self, metrics: Mapping[str, Any]) -> None:
        """Print who was left out, and the line of the round."""
        for line in left_out_lines(metrics["left_out"]):
            self.note(line)
        self.note(round_line(metrics, self._num_rounds))

    def note(self, text: str) -> None:
        """Print a line."""
        _print_line(self._console, text)


@dataclass(frozen=True)
class _Stage:
    """What the moving line shows; replaced as a whole, since another thread draws it."""

    name: str
    num_rounds: int
    first_round: int
    started: float  # seconds on the clock of the display
    last_finished: float
    finished_round: int
    metrics: Mapping[str, Any] | None = None


class LiveDisplay:
    """One moving line: stage, bar, round, time left, verb, accuracies; finished stages and notes stay above.

    The line is drawn by a thread of its own, at most ten times a second. The calls only store what it shows,
    so they may be made for every client. What does not fit into the width of the terminal is left out.

    Parameters
    ----------
    console : Console
        A terminal that can move its cursor.
    clock : callable
        The time in seconds, from any origin.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._stage: _Stage | None = None
        self._verb = ("", 0, 0)
        self._live = Live(
            get_renderable=self._line, console=console, refresh_per_second=REDRAWS_A_SECOND, transient=True
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
        self._finish_stage()
        self._live.stop()

    def stage(self, name: str, num_rounds: int, first_round: int = 1) -> None:
        """Leave a line of the stage before, and begin a new one."""
        self._finish_stage()
        now = self._clock()
        self._verb = ("", 0, 0)
        self._stage = _Stage(name, num_rounds, first_round, now, now, finished_round=first_round - 1)

    def verb(self, name: str, done: int, total: int) -> None:
        """Store how far the verb is."""
        self._verb = (name, done, total)

    def round_finished(self, metrics: Mapping[str, Any]) -> None:
        """Store the metrics of the round; who was left out stays above the moving line."""
        for line in left_out_lines(metrics["left_out"]):
            self.note(line)
        if self._stage is not None:
            self._stage = replace(
                self._stage, last_finished=self._clock(), finished_round=metrics["round"], metrics=metrics
            )

    def note(self, text: str) -> None:
        """Print a line above the moving one."""
        _print_line(self._console, text)

    def _finish_stage(self) -> None:
        stage, self._stage = self._stage, None
        if stage is not None and stage.metrics is not None:
            parts = [stage.name, *_round_parts(stage.metrics, stage.num_rounds)]
            self.note("  ".join([*parts, f"{stage.last_finished - stage.started:.1f} s"]))

    def _line(self) -> Table | Text:
        stage = self._stage
        if stage is None:
            return Text("")
        current = min(stage.finished_round + 1, stage.num_rounds)
        time_left = _time_left(stage, self._clock())
        parts = [
            f"{current:>{len(str(stage.num_rounds))}}/{stage.num_rounds}",
            f"{'-:--' if time_left is None else _format_duration(time_left)} left",
        ]
        verb, done, total = self._verb
        if verb:
            # As wide as the longest verb with all clients, so that what follows does not jump.
            parts.append(f"{verb} {done}/{total}".ljust(len(f"evaluate {total}/{total}")))
        if stage.metrics is not None:
            means = {kind: stage.metrics[f"{kind}_mean"] for kind in ("personal", "general")}
            parts += [f"{kind} {format_percent(mean)}%" for kind, mean in means.items() if mean is not None]

        def room_for_bar() -> int:
            return self._console.width - len(stage.name) - len("  ".join(parts)) - 2

        while room_for_bar() < NARROWEST_BAR and len(parts) > 2:
            parts.pop()
        line = Table.grid(padding=(0, 1, 0, 0))
        for _ in range(3):
            line.add_column(no_wrap=True)
        width = max(NARROWEST_BAR, min(WIDEST_BAR, room_for_bar()))
        bar = ProgressBar(total=stage.num_rounds, completed=stage.finished_round, width=width)
        line.add_row(Text(stage.name, style="bold"), bar, Text("  ".join(parts)))
        return line


def round_line(metrics: Mapping[str, Any], num_rounds: int) -> str:
    """Say in one line how a round went; what is unknown is left out.

    For example ``round  3/20  personal 91.2 % (worst 84.0)  general 85.1 %  12.3 kB up  0.21 s``.
    """
    parts = [*_round_parts(metrics, num_rounds), f"{format_bytes(metrics['bytes_up'])} up"]
    if "round" in metrics["seconds"]:
        parts.append(f"{metrics['seconds']['round']:.2f} s")
    return "  ".join(parts)


def left_out_lines(left_out: list[dict[str, Any]]) -> list[str]:
    """Name the clients that were left out of a round: a line for each phase and reason."""
    clients: dict[tuple[str, str], list[int]] = {}
    for one in left_out:
        # A reason may come from a client: it must not be able to control the terminal.
        reason = "".join(character if character.isprintable() else " " for character in one["reason"])
        clients.setdefault((one["phase"], reason), []).append(one["client_id"])
    return [f"{_name_clients(ids)} left out of {phase}: {reason}" for (phase, reason), ids in clients.items()]


def _round_parts(metrics: Mapping[str, Any], num_rounds: int) -> list[str]:
    parts = [f"round {metrics['round']:>{len(str(num_rounds))}}/{num_rounds}"]
    if metrics["personal_mean"] is not None:
        worst = metrics["personal_worst"]
        of_worst = "" if worst is None else f" (worst {format_percent(worst)})"
        parts.append(f"personal {format_percent(metrics['personal_mean'])} %{of_worst}")
    if metrics["general_mean"] is not None:
        parts.append(f"general {format_percent(metrics['general_mean'])} %")
    parts += [f"epsilon {epsilon:.3g} for a {unit}" for unit, epsilon in metrics.get("epsilon", {}).items()]
    return parts


def _name_clients(ids: list[int]) -> str:
    named = ", ".join(str(client_id) for client_id in ids[:MOST_CLIENTS_NAMED])
    others = len(ids) - MOST_CLIENTS_NAMED
    return f"client{'s' if len(ids) > 1 else ''} {named}" + (f" and {others} more" if others > 0 else "")


def _time_left(stage: _Stage, now: float) -> float | None:
    """Estimate the seconds to the end of a stage from its mean round; None before its first round ended."""
    num_finished = stage.finished_round - stage.first_round + 1
    if num_finished == 0:
        return None
    seconds_a_round = (stage.last_finished - stage.started) / num_finished
    num_left = stage.num_rounds - stage.finished_round
    return max(0.0, seconds_a_round * num_left - (now - stage.last_finished))


def _format_duration(seconds: float) -> str:
    minutes, whole_seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{whole_seconds:02d}" if hours else f"{minutes}:{whole_seconds:02d}"


def _print_line(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
