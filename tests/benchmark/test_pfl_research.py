import sys
from types import ModuleType

import pytest

from fedfuse.benchmark import pfl_research
from fedfuse.benchmark.cells import Cell
from fedfuse.benchmark.jobs import operations_of
from fedfuse.benchmark.turns import CannotCompeteError

CELL = Cell("mlp64", "training", 2, 1)


def test_what_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(pfl_research, "find_spec", lambda name: None)
    with pytest.raises(CannotCompeteError, match=r"it is not installed: pip install pfl$"):
        pfl_research.compete(CELL, None)


def test_what_is_missing_beside_it_is_named(monkeypatch):
    monkeypatch.setattr(pfl_research, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "pfl", ModuleType("pfl"))
    with pytest.raises(CannotCompeteError, match=r"pfl is installed, but no module named 'pfl\."):
        pfl_research.compete(CELL, None)


def test_an_iteration_is_a_turn():
    pytest.importorskip("pfl", reason="pfl is not installed", exc_type=ImportError)
    told = []

    class Turns:
        def ready(self, operations):
            told.append(operations)

        def finished(self):
            told.append("turn")

    pfl_research.compete(CELL, Turns())
    assert told == [operations_of(CELL), "turn", "turn"]
