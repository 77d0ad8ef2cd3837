"""What came out: the seconds of every contestant in every cell, medians, ratios and rates."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from fedfuse.benchmark.cells import Cell
from fedfuse.benchmark.contestants import PLAIN_LOOP, PRODUCT


@dataclass(frozen=True)
class Measured:
    """One contestant in one cell.

    Parameters
    ----------
    cell : Cell
        What was to be done.
    contestant : str
        A name in `fedfuse.benchmark.contestants.CONTESTANTS`.
    clients_measured : int
        So many clients were measured.
    operations : int
        Floating point operations of these clients in a turn.
    start : float
        Seconds from nothing to the end of the first turn, which is to warm up and counts nowhere else.
    seconds : tuple[float, ...]
        Of each turn, for all clients of the cell: where fewer were measured, their time is scaled.
    """

    cell: Cell
    contestant: str
    clients_measured: int
    operations: int
    start: float
    seconds: tuple[float, ...]

    @property
    def is_scaled(self) -> bool:
        """Whether fewer clients were measured than the cell has."""
        return self.clients_measured < self.cell.clients

    @property
    def median(self) -> float:
        """The median of the seconds."""
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float:
        """Floating point operations a second."""
        return self.operations * self.cell.clients / self.clients_measured / self.median


@dataclass(frozen=True)
class LeftOut:
    """A contestant that could not do what a cell asks, and why."""

    cell: Cell
    contestant: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """All that came out in one cell; the matrix product is the last of `measured`, if it was."""

    cell: Cell
    measured: tuple[Measured, ...]
    left_out: tuple[LeftOut, ...] = ()

    def find(self, contestant: str) -> Measured | None:
        """Find what was measured of a contestant."""
        return next((one for one in self.measured if one.contestant == contestant), None)

    @property
    def contestants(self) -> tuple[Measured, ...]:
        """Those that did the work."""
        return tuple(one for one in self.measured if one.contestant != PRODUCT)

    def ratios(self, contestant: str, other: str = PLAIN_LOOP) -> tuple[float, ...]:
        """Say how many times as quick a contestant was as another one, turn by turn.

        Parameters
        ----------
        contestant, other : str
            Their names.

        Returns
        -------
        tuple[float, ...]
            The ratios of their seconds in the same turns; nothing if one of them was not measured.
        """
        own, reference = self.find(contestant), self.find(other)
        if own is None or reference is None:
            return ()
        return tuple(slow / quick for slow, quick in zip(reference.seconds, own.seconds, strict=True))

    def share(self, contestant: str) -> float | None:
        """Divide the rate of a contestant by that of the matrix product, on one thread."""
        own, product = self.find(contestant), self.find(PRODUCT)
        return None if own is None or product is None else own.rate / product.rate


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median, the smallest and the largest."""
    return statistics.median(values), min(values), max(values)
