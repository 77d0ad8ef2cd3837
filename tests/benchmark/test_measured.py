import pytest

from fedfuse.benchmark.measured import spread


def test_the_median_and_the_rate_are_those_of_the_repeats(make_outcome):
    (one,) = make_outcome({"fedfuse": [4.0, 1.0, 2.0]}).measured
    assert one.median == 2.0
    assert one.rate == 500.0
    assert not one.is_scaled


def test_the_rate_of_a_scaled_time_is_that_of_the_clients_measured(make_outcome):
    (one,) = make_outcome({"fedfuse": [2.0]}, clients=100, measured={"fedfuse": 20}).measured
    assert one.is_scaled
    assert one.rate == 1000 * 5 / 2.0


def test_ratios_are_taken_turn_by_turn(make_outcome):
    outcome = make_outcome({"plain loop": [2.0, 6.0], "fedfuse": [1.0, 2.0], "Flower on Ray": [10.0, 8.0]})
    assert outcome.ratios("fedfuse") == (2.0, 3.0)
    assert outcome.ratios("fedfuse", "Flower on Ray") == (10.0, 4.0)


def test_without_one_of_both_there_is_no_ratio_and_no_share(make_outcome):
    outcome = make_outcome({"fedfuse": [1.0]})
    assert outcome.ratios("fedfuse") == ()
    assert outcome.ratios("pfl-research", "fedfuse") == ()
    assert outcome.share("fedfuse") is None


def test_the_share_is_of_the_rate_of_the_matrix_product(make_outcome):
    outcome = make_outcome({"fedfuse": [4.0], "matrix product": [1.0]})
    assert outcome.share("fedfuse") == 0.25
    assert [one.contestant for one in outcome.contestants] == ["fedfuse"]


def test_spread_is_the_median_the_smallest_and_the_largest():
    assert spread([5.0, 1.0, 2.0]) == (2.0, 1.0, 5.0)
    assert spread([1.0, 2.0]) == pytest.approx((1.5, 1.0, 2.0))
