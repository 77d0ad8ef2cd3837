import math

import numpy as np
import pytest
import torch

from fedfuse.transfer.combined_confidence import ConfidentSelection
from fedfuse.transfer.lesson import Lesson


def binary(*probabilities):
    first = torch.tensor(probabilities, dtype=torch.float64)
    return torch.stack([first, 1 - first], 1)


# Combined alike: eight of class 0 with 0.55 to 0.9, two of class 1 with 0.6 and 0.8.
FUSED = binary(0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.4, 0.2)


def rows_of(step, round=1, fused=FUSED, own=FUSED, rows=None):
    rows = torch.arange(len(fused)) if rows is None else torch.tensor(rows)
    lesson = Lesson(torch.zeros(len(fused), 2), fused, rows, own)
    taught, state = step(lesson, {}, round, np.random.default_rng(0))
    assert state == {}
    return taught.rows.tolist()


def test_of_each_class_the_most_confident_share_is_kept_rounded_up():
    # 0.3 of eight are three, of two is one.
    assert rows_of(ConfidentSelection()) == [0, 1, 2, 9]
    assert rows_of(ConfidentSelection(start=0.01)) == [0, 9]
    assert rows_of(ConfidentSelection(start=0.51)) == [0, 1, 2, 3, 4, 8, 9]


def test_rows_come_in_their_order_and_those_that_did_not_come_are_not_judged():
    assert rows_of(ConfidentSelection(start=0.5), rows=[7, 4, 5, 8]) == [4, 5, 8]


def test_the_share_grows_linearly_to_all():
    fused = binary(*np.linspace(0.6, 1, 100))
    kept = [len(rows_of(ConfidentSelection(), round, fused, fused)) for round in range(1, 14)]
    assert kept == [30, 38, 46, 54, 62, 69, 77, 85, 93, 100, 100, 100, 100]
    assert len(rows_of(ConfidentSelection(num_rounds=3), 2, fused, fused)) == 65
    assert len(rows_of(ConfidentSelection(num_rounds=1), 1, fused, fused)) == 100
    assert len(rows_of(ConfidentSelection(), 0, fused, fused)) == 30


def test_confidence_and_class_are_those_of_fused_and_own_answers_together():
    fused, own = binary(0.9, 0.8, 0.6), binary(0.1, 0.7, 0.9)
    # Together 0.5, 0.75 and 0.75, all of class 0: of equals the first is kept.
    assert rows_of(ConfidentSelection(start=0.3), 1, fused, own) == [1]
    assert rows_of(ConfidentSelection(start=0.3, weight=1.0), 1, fused, own) == [0]
    # Alone, the client puts the first into the other class.
    assert rows_of(ConfidentSelection(start=0.3, weight=0.0), 1, fused, own) == [0, 2]
    # 0.25 * 0.9 + 0.75 * 0.1 = 0.3 is of class 1, with 0.7; the third has 0.825.
    assert rows_of(ConfidentSelection(start=0.3, weight=0.25), 1, fused, own) == [0, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": 0}, r"start=0 must lie in \(0, 1\]"),
        ({"start": 1.1}, r"start=1.1 must lie in \(0, 1\]"),
        ({"start": math.nan}, r"start=nan must lie in \(0, 1\]"),
        ({"num_rounds": 0}, "num_rounds=0 must be a whole number of at least 1"),
        ({"num_rounds": 2.5}, "num_rounds=2.5 must be a whole number of at least 1"),
        ({"num_rounds": True}, "num_rounds=True must be a whole number of at least 1"),
        ({"weight": -0.1}, r"weight=-0.1 must lie in \[0, 1\]"),
        ({"weight": 1.1}, r"weight=1.1 must lie in \[0, 1\]"),
    ],
)
def test_parameters_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConfidentSelection(**arguments)
