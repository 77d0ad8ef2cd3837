import json
import sys
from io import StringIO
from types import SimpleNamespace

import pytest

from fedfuse.benchmark.cells import Cell
from fedfuse.benchmark.contestant_process import work
from fedfuse.benchmark.turns import CannotCompeteError
from fedfuse.errors import ConfigurationError

CELLS = [json.dumps({"model": "mlp64", "work": "training", "clients": number, "repeats": 1}) for number in (3, 4)]


@pytest.fixture
def compete(monkeypatch):
    """Put a contestant in place that notes its cells; it fails with what is set."""

    def compete(cell, turns):
        module.cells.append(cell)
        turns.ready(5)
        if module.error:
            raise module.error
        turns.finished()
        turns.finished()

    module = SimpleNamespace(compete=compete, cells=[], error=None)
    monkeypatch.setitem(sys.modules, "a_contestant", module)
    return module


def answers_to(*lines):
    answers = StringIO()
    work("a_contestant:compete", StringIO("".join(f"{line}\n" for line in lines)), answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_one_cell_follows_the_other(compete):
    answers = answers_to(CELLS[0], "turn", "turn", CELLS[1], "turn", "turn")
    assert [next(iter(answer)) for answer in answers] == ["operations", "seconds", "seconds", "done"] * 2
    assert compete.cells == [Cell("mlp64", "training", 3, 1), Cell("mlp64", "training", 4, 1)]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (CannotCompeteError("it is not installed"), "it is not installed"),
        (ConfigurationError("Unknown key 'a'."), "Unknown key 'a'"),
        (ValueError("of two\n  lines."), "ValueError: of two lines"),
    ],
)
def test_who_cannot_do_it_says_why_in_a_line_and_waits_for_the_next_cell(compete, error, reason):
    compete.error = error
    answers = answers_to(CELLS[0], "turn", CELLS[1], "turn")
    assert answers == [{"operations": 5}, {"left_out": reason}] * 2


def test_a_contestant_that_is_not_there_is_left_out():
    answers = StringIO()
    work("fedfuse.nowhere:compete", StringIO(CELLS[0] + "\n"), answers)
    assert json.loads(answers.getvalue()) == {"left_out": "ModuleNotFoundError: No module named 'fedfuse.nowhere'"}


def test_nobody_asks_any_more_in_the_middle_of_a_cell(compete):
    with pytest.raises(EOFError):
        answers_to(CELLS[0], "turn")
