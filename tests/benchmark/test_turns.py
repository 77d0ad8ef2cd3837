import json
from io import StringIO

import pytest

from fedfuse.benchmark.turns import Turns


def lines(answers):
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_each_turn_is_timed_from_when_it_is_given():
    answers, times = StringIO(), iter([10.0, 10.5, 20.0, 22.0])
    turns = Turns(2, StringIO("turn\nturn\nmore\n"), answers, lambda: next(times))
    done = []
    turns.take_all(77, lambda: done.append(len(lines(answers))))
    assert lines(answers) == [{"operations": 77}, {"seconds": 0.5}, {"seconds": 2.0}]
    assert done == [1, 2]


def test_after_the_last_turn_nothing_is_waited_for():
    told = StringIO("turn\nnext cell\n")
    turns = Turns(1, told, StringIO())
    turns.take_all(1, lambda: None)
    assert told.read() == "next cell\n"


def test_nobody_gives_turns_any_more():
    turns = Turns(2, StringIO("turn\n"), StringIO())
    turns.ready(1)
    with pytest.raises(EOFError):
        turns.finished()
