import pytest

from fedfuse.benchmark import runners
from fedfuse.benchmark.cells import Cell
from fedfuse.benchmark.jobs import operations_of


class Turn:
    def take_all(self, operations, work):
        self.operations = operations
        self.result = work()


@pytest.mark.parametrize("name", ["sequential", "stacked"])
def test_a_turn_trains_every_client_with_the_runner_of_that_name(name, monkeypatch):
    cell, turn = Cell("mlp64", "training", 3, 1), Turn()
    engine = {"sequential": runners.one_by_one, "stacked": runners.together}[name]
    fitted = []
    monkeypatch.setattr(engine, "fit", lambda jobs: fitted.append(len(jobs)) or jobs)
    getattr(runners, name)(cell, turn)
    assert fitted == [3]
    assert turn.operations == operations_of(cell)
