import math

import pytest

from fedfuse.compare.statistics import Estimate, estimate, holm, paired_difference


def test_mean_and_sample_standard_deviation():
    # Squares around the mean of 5: 9 + 1 + 1 + 9 = 20, over n - 1 = 3.
    assert estimate([2.0, 4.0, 6.0, 8.0]) == Estimate(5.0, math.sqrt(20 / 3), 4)


def test_one_seed_has_no_spread_and_none_has_no_estimate():
    assert estimate([0.75]) == Estimate(0.75, None, 1)
    assert estimate([]) is None


def test_paired_test_of_two_seeds_is_that_of_a_cauchy_distribution():
    difference = paired_difference([0.51, 0.43], [0.50, 0.40])
    # Differences 0.01 and 0.03: mean 0.02, standard error 0.01, t = 2 with one degree of freedom.
    assert difference.mean == pytest.approx(0.02)
    assert difference.p == pytest.approx(1 - 2 * math.atan(2) / math.pi)
    half = 0.01 * math.tan(0.475 * math.pi)
    assert (difference.low, difference.high) == pytest.approx((0.02 - half, 0.02 + half))
    assert (difference.adjusted_p, difference.num_seeds, difference.reason) == (None, 2, None)


def test_paired_test_of_three_seeds_has_a_closed_form():
    difference = paired_difference([0.1, 0.5, 0.6], [0.2, 0.2, 0.2])
    # Differences -0.1, 0.3, 0.4: mean 0.2, variance (0.09 + 0.01 + 0.04) / 2; two degrees of freedom.
    error = math.sqrt(0.07 / 3)
    t = 0.2 / error
    assert difference.p == pytest.approx(1 - t / math.sqrt(t**2 + 2))
    quantile = 0.95 * math.sqrt(2 / (1 - 0.95**2))
    assert difference.low == pytest.approx(0.2 - quantile * error)
    assert difference.high == pytest.approx(0.2 + quantile * error)


def test_pairs_count_and_not_the_spread_between_seeds():
    alike = paired_difference([0.1, 0.5, 0.91], [0.09, 0.48, 0.89])
    assert alike.p < 0.05 < paired_difference([0.5, 0.1, 0.91], [0.09, 0.48, 0.89]).p


@pytest.mark.parametrize(
    ("values", "others", "mean", "reason"),
    [
        ([0.5], [0.25], 0.25, "one seed"),
        ([0.3, 0.8], [0.1, 0.6], 0.2, "no variance"),  # but for rounding
        ([0.3, 0.8], [0.3, 0.8], 0.0, "no variance"),
    ],
)
def test_where_there_is_nothing_to_test_the_reason_is_said(values, others, mean, reason):
    difference = paired_difference(values, others)
    assert difference.mean == pytest.approx(mean)
    assert (difference.low, difference.high, difference.p) == (None, None, None)
    assert difference.reason == reason


def test_without_common_seeds_there_is_no_difference():
    assert paired_difference([], []) is None


def test_holm_multiplies_the_smallest_by_the_number_of_tests():
    # Ranked: 0.01 x 4, 0.02 x 3, 0.03 x 2 (not below 0.06), 0.5 x 1.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])


def test_holm_never_exceeds_one_and_leaves_a_single_test_alone():
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.04]) == [0.04]
    assert holm([]) == []
