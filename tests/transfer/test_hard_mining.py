import math

import numpy as np
import pytest
import torch

from fedfuse.transfer.hard_mining import HardMining
from fedfuse.transfer.lesson import Lesson

# KL(p || q): log 2 = 0.69, 0, 0.5 log 2 + 0.5 log(2 / 3) = 0.14, log 4 = 1.39, 0.02.
FUSED = torch.tensor([[1.0, 0.0], [0.3, 0.7], [0.5, 0.5], [1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
OWN = torch.tensor([[0.5, 0.5], [0.3, 0.7], [0.25, 0.75], [0.25, 0.75], [0.4, 0.6]], dtype=torch.float64)


def rows_of(fraction, fused=FUSED, own=OWN, rows=None):
    rows = torch.arange(len(fused)) if rows is None else torch.tensor(rows)
    lesson = Lesson(torch.zeros(len(fused), 2), fused, rows, own)
    taught, state = HardMining(fraction)(lesson, {}, 1, np.random.default_rng(0))
    assert state == {}
    return taught.rows.tolist()


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [(0.01, [3]), (0.2, [3]), (0.4, [0, 3]), (0.5, [0, 2, 3]), (0.8, [0, 2, 3, 4]), (1, [0, 1, 2, 3, 4])],
)
def test_the_rows_with_the_largest_divergence_are_kept_in_their_order(fraction, expected):
    assert rows_of(fraction) == expected


def test_only_rows_that_came_are_judged_and_repeated_ones_count_each_time():
    assert rows_of(0.5, rows=[4, 1, 2, 1]) == [4, 2]
    assert rows_of(0.5, rows=[4, 4, 3, 3]) == [3, 3]


def test_the_divergence_is_of_the_clients_answer_from_the_fused_one_and_not_the_other_way_round():
    fused = torch.tensor([[0.5, 0.5], [0.99, 0.01]], dtype=torch.float64)
    own = torch.tensor([[0.95, 0.05], [0.5, 0.5]], dtype=torch.float64)
    # 0.83 and 0.64; the other way round 0.49 and 1.61.
    assert rows_of(0.5, fused, own) == [0]


def test_a_probability_of_zero_is_the_hardest_and_finite():
    own = OWN.clone()
    own[1] = torch.tensor([1.0, 0.0])
    assert rows_of(0.2, own=own) == [1]


def test_of_equals_the_first_are_kept():
    assert rows_of(0.5, FUSED[[1] * 5], OWN[[1] * 5]) == [0, 1, 2]


@pytest.mark.parametrize("fraction", [0, -0.5, 1.01, math.nan, math.inf])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(ValueError, match=f"fraction={fraction} must lie in "):
        HardMining(fraction)
