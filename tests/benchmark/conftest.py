import pytest

from fedfuse.benchmark.cells import Cell
from fedfuse.benchmark.measured import Measured, Outcome


@pytest.fixture(scope="session")
def make_outcome():
    """Return a function that makes the outcome of a cell from the seconds of each contestant."""

    def make(seconds, model="mlp64", work="training", clients=10, measured=None, left_out=()):
        cell = Cell(model, work, clients, len(next(iter(seconds.values()))))
        rows = (
            Measured(cell, name, (measured or {}).get(name, clients), 1000, 2.5, tuple(own))
            for name, own in seconds.items()
        )
        return Outcome(cell, tuple(rows), tuple(left_out))

    return make
