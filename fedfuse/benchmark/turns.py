"""The contestant's side of taking turns: say when all is set up, do the work when told to, tell how long it took."""

import json
import time
from collections.abc import Callable
from typing import Any, TextIO


class CannotCompeteError(Exception):
    """A contestant is not installed here, or cannot do what is asked; the message says why."""


class Turns:
    """The turns of one contestant in one cell: one to warm up, and one for each repeat.

    Parameters
    ----------
    number : int
        How many turns there are.
    told : TextIO
        A line in it begins a turn.
    answers : TextIO
        Where answers go, a line of JSON each.
    clock : Callable[[], float]
        Tells the time in seconds.

    Raises
    ------
    EOFError
        If nobody gives turns any more.
    """

    def __init__(
        self, number: int, told: TextIO, answers: TextIO, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._left = number
        self._told = told
        self._answers = answers
        self._clock = clock
        self._start = 0.0

    def ready(self, operations: int) -> None:
        """Say that all is set up, and wait for the first turn.

        Parameters
        ----------
        operations : int
            How many floating point operations the matrix products and convolutions of a turn have.
        """
        self._say({"operations": operations})
        self._wait()

    def finished(self) -> None:
        """Say that a turn is over, and wait for the next one, if there is one."""
        seconds = self._clock() - self._start
        self._left -= 1
        self._say({"seconds": seconds})
        if self._left:
            self._wait()

    def take_all(self, operations: int, work: Callable[[], object]) -> None:
        """Do the same work in every turn."""
        self.ready(operations)
        for _ in range(self._left):
            work()
            self.finished()

    def _say(self, answer: dict[str, Any]) -> None:
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()

    def _wait(self) -> None:
        if not self._told.readline():
            raise EOFError
        self._start = self._clock()
