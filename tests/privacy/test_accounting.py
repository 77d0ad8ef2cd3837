import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from fedfuse.errors import ConfigurationError
from fedfuse.privacy.accounting import (
    check_delta,
    check_delta_for,
    epsilon_to_zcdp,
    randomised_response_delta,
    randomised_response_epsilon,
    zcdp_to_epsilon,
)

DELTA = 1e-5


def analytic_gaussian_epsilon(rho, delta):
    """The exact epsilon of one continuous Gaussian with this rho, by Balle and Wang, ICML 2018, theorem 8."""
    ratio = math.sqrt(2 * rho)

    def excess(epsilon):
        far = norm.logcdf(-ratio / 2 - epsilon / ratio)
        return norm.cdf(ratio / 2 - epsilon / ratio) - math.exp(epsilon + far) - delta

    return brentq(excess, 0, rho + 20 * math.sqrt(rho) + 20)


def test_a_thousand_soft_labels_with_noise_of_one_in_numbers():
    # A thousand answers at most the square root of two apart, noised with deviation one.
    rho = 1000 * 2 / 2
    assert rho + 2 * math.sqrt(rho * math.log(1 / DELTA)) == pytest.approx(1214.6, abs=0.05)
    assert zcdp_to_epsilon(rho, DELTA) == pytest.approx(1211.3105, abs=1e-4)


@pytest.mark.parametrize("rho", [1e-4, 0.01, 0.5, 10.0, 1000.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-10])
def test_epsilon_of_zcdp_is_the_smallest_over_all_orders(rho, delta):
    excess = np.geomspace(1e-6, 1e9, 200_001)
    order = 1 + excess
    epsilons = order * rho + np.log(excess / order) + (math.log(1 / delta) - np.log(order)) / excess
    assert zcdp_to_epsilon(rho, delta) == pytest.approx(max(0, epsilons.min()), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("rho", [0.01, 0.5, 10.0, 1000.0])
def test_epsilon_of_zcdp_lies_between_that_of_one_gaussian_and_the_simple_formula(rho):
    epsilon = zcdp_to_epsilon(rho, DELTA)
    assert analytic_gaussian_epsilon(rho, DELTA) < epsilon < rho + 2 * math.sqrt(rho * math.log(1 / DELTA))


@pytest.mark.parametrize(("multiplier", "count"), [(1.0, 1), (10.0, 30), (0.5, 1000)])
def test_epsilon_of_zcdp_is_that_of_an_independent_accountant(multiplier, count):
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    rho = count / (2 * multiplier**2)
    orders = 1 + np.geomspace(1e-3, 1e4, 5000)
    accountant = RdpAccountant(orders=orders)
    accountant.compose(dp_accounting.GaussianDpEvent(multiplier), count)
    assert zcdp_to_epsilon(rho, DELTA) == pytest.approx(accountant.get_epsilon(DELTA), rel=1e-5)


def test_epsilon_of_zcdp_rises_with_rho_and_falls_with_delta():
    epsilons = [zcdp_to_epsilon(rho, DELTA) for rho in (1e-12, 1e-3, 1.0, 1e3, 1e18)]
    assert epsilons[0] == 0
    assert epsilons == sorted(epsilons)
    assert zcdp_to_epsilon(1.0, 1e-3) < zcdp_to_epsilon(1.0, 1e-9)


@pytest.mark.parametrize("num_classes", [2, 10])
def test_one_randomised_response_by_hand(num_classes):
    # The hockey-stick divergence of (e, 1, 1, ...) and (1, e, 1, ...), each over their sum.
    whole, answer = math.exp(1.5), 1.5
    for epsilon in (0.0, 0.4, 1.2):
        expected = (whole - math.exp(epsilon)) / (whole + num_classes - 1)
        assert randomised_response_delta(epsilon, answer, num_classes, 1, DELTA) == pytest.approx(expected, rel=1e-9)
    assert randomised_response_delta(1.5, answer, num_classes, 1, DELTA) == pytest.approx(0, abs=1e-16)


def test_three_randomised_responses_by_counting_all_answers():
    answer, num_classes = 0.8, 4
    share = 1 / (math.exp(answer) + num_classes - 1)
    here = share * np.array([math.exp(answer), 1, 1, 1])
    there = share * np.array([1, math.exp(answer), 1, 1])
    all_here = np.einsum("i,j,k->ijk", here, here, here)
    all_there = np.einsum("i,j,k->ijk", there, there, there)
    for epsilon in (0.0, 0.5, 1.1, 2.0):
        expected = np.maximum(all_here - math.exp(epsilon) * all_there, 0).sum()
        assert randomised_response_delta(epsilon, answer, num_classes, 3, DELTA) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("answer", "num_classes", "count"), [(1.0, 10, 100), (0.1, 10, 1000), (3.0, 2, 20)])
def test_epsilon_of_randomised_response_lies_within_the_bounds_of_an_independent_accountant(answer, num_classes, count):
    from dp_accounting.pld.privacy_loss_distribution import from_randomized_response

    by_chance = num_classes / (math.exp(answer) + num_classes - 1)
    low, high = (
        from_randomized_response(by_chance, num_classes, pessimistic, 1e-4).self_compose(count)
        for pessimistic in (False, True)
    )
    epsilon = randomised_response_epsilon(answer, num_classes, count, DELTA)
    # Rounded up, by one part in a hundred million.
    assert low.get_epsilon_for_delta(DELTA) - 1e-6 <= epsilon <= high.get_epsilon_for_delta(DELTA) + 1e-6


def test_epsilon_of_randomised_response_is_never_above_the_sum_nor_that_of_zcdp():
    for answer, count in ((0.1, 1), (0.1, 20_000), (1.0, 20_000), (800.0, 5)):
        epsilon = randomised_response_epsilon(answer, 10, count, DELTA)
        assert epsilon <= count * answer
        # Bun and Steinke, TCC 2016, proposition 1.4: pure epsilon is half its square in zCDP.
        assert epsilon <= zcdp_to_epsilon(count * answer**2 / 2, DELTA)
    assert randomised_response_epsilon(0.1, 10, 20_000, DELTA) == pytest.approx(47.5786, abs=1e-4)


def test_epsilon_of_randomised_response_holds_for_its_delta_and_little_less_does_not():
    epsilon = randomised_response_epsilon(0.5, 10, 200, DELTA)
    assert randomised_response_delta(epsilon, 0.5, 10, 200, DELTA) <= DELTA
    assert randomised_response_delta(epsilon * (1 - 1e-6), 0.5, 10, 200, DELTA) > DELTA


def test_randomised_response_that_delta_covers_loses_nothing():
    assert randomised_response_epsilon(1e-4, 10, 1, 0.01) == 0


@pytest.mark.parametrize("delta", [0, -0.1, 1, math.nan])
def test_a_delta_that_is_no_small_probability_is_refused(delta):
    with pytest.raises(ValueError, match=rf"^delta={delta} must be in \(0, 1\)$"):
        check_delta(delta)
    check_delta(0.5)


def test_a_delta_that_gives_away_one_of_all_is_refused():
    check_delta_for("gaussian", 0.0999, 10, "client")
    with pytest.raises(
        ConfigurationError, match=r"^privacy: delta=0\.1 of gaussian must be below 1/10, one in the number of clients:"
    ):
        check_delta_for("gaussian", 0.1, 10, "client")


@pytest.mark.parametrize("delta", [1e-5, 0.1])
@pytest.mark.parametrize("epsilon", [1e-6, 0.1, 1.0, 10.0, 1000.0])
def test_a_budget_in_zcdp_is_the_largest_that_keeps_epsilon(epsilon, delta):
    rho = epsilon_to_zcdp(epsilon, delta)
    assert zcdp_to_epsilon(rho, delta) <= epsilon < zcdp_to_epsilon(rho * (1 + 1e-6), delta)
