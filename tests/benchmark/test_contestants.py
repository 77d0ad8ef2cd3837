import importlib

import pytest

from fedfuse.benchmark.cells import MODELS, WORKS, Cell
from fedfuse.benchmark.contestants import CONTESTANTS, PLAIN_LOOP, PRODUCT


@pytest.mark.parametrize("contestant", CONTESTANTS.values(), ids=CONTESTANTS)
def test_every_target_is_there(contestant):
    module, _, name = contestant.target.partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    assert set(contestant.works) <= set(WORKS)


def test_the_plain_loop_and_the_matrix_product_are_in_every_cell():
    assert CONTESTANTS[PLAIN_LOOP].works == CONTESTANTS[PRODUCT].works == tuple(WORKS)


def test_of_many_clients_those_that_are_computed_together_are_measured_of_more():
    cell = Cell("mlp64", "training", 1000, 3)
    assert CONTESTANTS["fedfuse sequential"].cell_measured(cell) == Cell("mlp64", "training", 100, 3)
    assert CONTESTANTS["fedfuse stacked"].cell_measured(cell) == cell


@pytest.mark.parametrize("name", MODELS)
def test_few_clients_are_measured_as_they_are(name):
    cell = Cell(name, "training", 2, 3)
    assert all(contestant.cell_measured(cell) == cell for contestant in CONTESTANTS.values())
