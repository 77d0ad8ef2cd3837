import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedfuse.encoding.levels import to_levels


def test_numbers_that_lost_most_are_rounded_up():
    # 10 times these is 4.4, 3.8, 1.8: rounded down 4, 3, 1, so the two that lost most are raised.
    assert to_levels(np.array([[0.44, 0.38, 0.18]]), 10).tolist() == [[4, 4, 2]]


def test_of_equal_losses_the_first_are_raised():
    assert to_levels(np.full((1, 4), 0.25), 10).tolist() == [[3, 3, 2, 2]]


def test_rows_are_divided_by_their_sum():
    assert to_levels(np.array([[2.0, 6.0]]), 4).tolist() == [[1, 3]]


@pytest.mark.parametrize("total", [1, 255, 510])
@settings(deadline=None)
@given(weights=arrays(np.float64, st.tuples(st.integers(0, 4), st.integers(1, 12)), elements=st.floats(0, 1)))
def test_rows_sum_to_the_total_and_none_is_off_by_a_level(total, weights):
    weights = weights + 1e-9
    levels = to_levels(weights, total)
    assert (levels >= 0).all()
    assert (levels.sum(1) == total).all()
    assert (np.abs(levels - weights / weights.sum(1, keepdims=True) * total) < 1).all()
