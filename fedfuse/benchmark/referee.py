"""The side that gives turns: it starts a process for each contestant, lets them take turns, and notes their times."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from fedfuse.benchmark.cells import Cell
from fedfuse.benchmark.contestants import CONTESTANTS, PRODUCT, Contestant
from fedfuse.benchmark.measured import LeftOut, Measured, Outcome

SECONDS_TO_STOP = 30.0  # Ray takes some


class LeftOutError(Exception):
    """A contestant cannot do what is asked; the message says why."""


class Opponent(Protocol):
    """One contestant, wherever it runs."""

    def prepare(self, cell: Cell) -> int:
        """Let it set up a cell, and return the operations of a turn."""

    def take_turn(self) -> float:
        """Let it do the work once, and return the seconds."""

    def finish(self) -> None:
        """Let it clear away the cell."""


def hold(
    cells: Iterable[Cell], opponents: Mapping[str, Opponent], clock: Callable[[], float] = time.perf_counter
) -> Iterator[Outcome]:
    """Let all contestants do all cells.

    Parameters
    ----------
    cells : Iterable[Cell]
        What is to be done.
    opponents : Mapping[str, Opponent]
        By the names of `CONTESTANTS`.
    clock : Callable[[], float]
        Tells the time in seconds; the turns are timed by the contestants themselves.

    Yields
    ------
    Outcome
        Of each cell.
    """
    for cell in cells:
        yield _hold_one(cell, {name: one for name, one in opponents.items() if _competes(name, cell)}, clock)


def _competes(name: str, cell: Cell) -> bool:
    return cell.work in CONTESTANTS[name].works


def _hold_one(cell: Cell, opponents: Mapping[str, Opponent], clock: Callable[[], float]) -> Outcome:
    left_out: dict[str, LeftOut] = {}
    operations: dict[str, int] = {}
    preparing: dict[str, float] = {}
    turns: dict[str, list[float]] = {name: [] for name in opponents}

    def attempt(name: str, what: Callable[[], None]) -> None:
        if name not in left_out:
            try:
                what()
            except LeftOutError as error:
                left_out[name] = LeftOut(cell, name, str(error))

    def prepare(name: str) -> None:
        start = clock()
        operations[name] = opponents[name].prepare(CONTESTANTS[name].cell_measured(cell))
        preparing[name] = clock() - start

    for name in opponents:
        attempt(name, lambda name=name: prepare(name))  # type: ignore[misc]
    for _ in range(1 + cell.repeats):
        for name in opponents:
            attempt(name, lambda name=name: turns[name].append(opponents[name].take_turn()))  # type: ignore[misc]
    for name in opponents:
        attempt(name, opponents[name].finish)

    def measured(name: str) -> Measured:
        number = CONTESTANTS[name].cell_measured(cell).clients
        first, *others = turns[name]
        scale = 1.0 if name == PRODUCT else cell.clients / number
        seconds = tuple(scale * one for one in others)
        clients = cell.clients if name == PRODUCT else number
        return Measured(cell, name, clients, operations[name], preparing[name] + first, seconds)

    return Outcome(cell, tuple(measured(name) for name in opponents if name not in left_out), tuple(left_out.values()))


class OpponentProcess:
    """A contestant in a process of its own, with one thread for every library.

    Parameters
    ----------
    contestant : Contestant
        Who.
    log : Path
        The file for what it prints.
    """

    def __init__(self, contestant: Contestant, log: Path) -> None:
        with log.open("a", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "fedfuse.benchmark.contestant_process", contestant.target],
                # Modules are searched where they are searched here.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def prepare(self, cell: Cell) -> int:
        """Let it set up a cell, and return the operations of a turn."""
        return int(self._ask(json.dumps(asdict(cell)), "operations"))

    def take_turn(self) -> float:
        """Let it do the work once, and return the seconds."""
        return self._ask("turn", "seconds")

    def finish(self) -> None:
        """Let it clear away the cell."""
        self._hear("done")

    def stop(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdout.close()
        try:
            self._process.stdin.close()
            self._process.wait(SECONDS_TO_STOP)
        except (subprocess.TimeoutExpired, OSError):
            self._process.kill()
            self._process.wait()

    def _ask(self, line: str, key: str) -> float:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except OSError:
            pass  # that it is gone shows when the answer is awaited
        return self._hear(key)

    def _hear(self, key: str) -> float:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise LeftOutError(f"its process ended (exit code {self._process.wait()})")
        answer = json.loads(line)
        if "left_out" in answer:
            raise LeftOutError(answer["left_out"])
        return float(answer[key])


@contextmanager
def opponents_for(works: Iterable[str], log: Path) -> Iterator[dict[str, Opponent]]:
    """Start a process for each contestant that can do one of these works; they end with the block."""
    works = set(works)
    processes: dict[str, OpponentProcess] = {}
    try:
        for name, contestant in CONTESTANTS.items():
            if works.intersection(contestant.works):
                processes[name] = OpponentProcess(contestant, log)
        yield dict(processes)
    finally:
        for process in processes.values():
            process.stop()
