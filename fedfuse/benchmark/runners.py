"""The runners of fedfuse: one client after the other, and all of them together."""

from fedfuse.benchmark.cells import Cell
from fedfuse.benchmark.jobs import make_jobs, operations_of
from fedfuse.benchmark.turns import Turns
from fedfuse.engine import sequential as one_by_one
from fedfuse.engine import stacked as together


def sequential(cell: Cell, turns: Turns) -> None:
    """Train one client after the other."""
    jobs = make_jobs(cell)
    turns.take_all(operations_of(cell), lambda: one_by_one.fit(jobs))


def stacked(cell: Cell, turns: Turns) -> None:
    """Train all clients together."""
    jobs = make_jobs(cell)
    turns.take_all(operations_of(cell), lambda: together.fit(jobs))
