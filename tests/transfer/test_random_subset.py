import math

import numpy as np
import pytest

from fedfuse.transfer.policy import no_past
from fedfuse.transfer.random_subset import RandomSubset


def rows_of(fraction, num_samples, seed=0):
    return RandomSubset(fraction)(no_past(num_samples), np.random.default_rng(seed)).tolist()


@pytest.mark.parametrize(
    ("fraction", "num_samples", "expected"),
    [
        (0.5, 10, 5),
        (0.5, 11, 6),
        (0.1, 30, 3),
        (0.01, 10, 1),
        # In floating point 0.07 * 100 and 0.55 * 100 are a little more than 7 and 55.
        (0.07, 100, 7),
        (0.55, 100, 55),
        (0.551, 100, 56),
        (1e-12, 10, 1),
    ],
)
def test_number_of_rows_is_the_fraction_rounded_up(fraction, num_samples, expected):
    assert len(rows_of(fraction, num_samples)) == expected


def test_a_fraction_of_one_takes_all_rows():
    assert rows_of(1, 20) == list(range(20))


def test_half_of_the_rows_are_taken_where_nothing_else_is_said():
    assert RandomSubset() == RandomSubset(0.5)


def test_rounds_draw_differently_and_reach_every_row_about_equally_often():
    rounds = [rows_of(0.3, 20, seed) for seed in range(500)]
    assert len({tuple(rows) for rows in rounds}) > 400
    drawn = [row for rows in rounds for row in rows]
    # The mean is 150, a standard deviation 10.
    assert all(110 < drawn.count(row) < 190 for row in range(20))


@pytest.mark.parametrize("fraction", [0, -0.5, 1.01, math.nan, math.inf])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(ValueError, match=f"fraction={fraction} must lie in "):
        RandomSubset(fraction)
