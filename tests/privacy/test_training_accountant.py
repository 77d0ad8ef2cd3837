import math

import numpy as np
import pytest
from scipy.special import gammaln, logsumexp
from scipy.stats import norm

from fedfuse.privacy.training_accountant import LARGEST_DISTRIBUTION, ORDERS, _curve, calibrate, epsilon_of


def closed_sum(rate, sigma, order):
    """Renyi divergence of a sampled Gaussian at a whole order: Mironov, Talwar and Zhang 2019, section 3.3."""
    k = np.arange(order + 1)
    binomial = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
    return logsumexp(binomial + (order - k) * np.log1p(-rate) + k * np.log(rate) + (k * k - k) / (2 * sigma**2)) / (
        order - 1
    )


def analytic_gaussian(sigma, delta):
    """Epsilon of the Gaussian mechanism of sensitivity 1: Balle and Wang 2018, theorem 8, by bisection."""

    def exact_delta(epsilon):
        return norm.cdf(0.5 / sigma - epsilon * sigma) - math.exp(epsilon) * norm.cdf(-0.5 / sigma - epsilon * sigma)

    low, high = 0.0, 60.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if exact_delta(middle) > delta else (low, middle)
    return high


@pytest.mark.parametrize(("rate", "sigma"), [(0.01, 1.0), (0.18, 1.5), (0.5, 0.7), (0.9, 4.0)])
def test_the_renyi_divergence_is_the_closed_sum(rate, sigma):
    expected = [closed_sum(rate, sigma, order) for order in ORDERS]
    np.testing.assert_allclose(_curve(rate, sigma), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("rate", "sigma", "number"), [(0.01, 1.0, 1000), (0.18, 1.5, 300)])
def test_rdp_converts_the_sum_over_steps_to_epsilon(rate, sigma, number):
    delta = 1e-5
    # Canonne, Kamath and Steinke 2020, proposition 12.
    expected = min(
        number * closed_sum(rate, sigma, order) + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
        for order in ORDERS
    )
    assert epsilon_of([(rate, sigma, number)], delta, "rdp") == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("sigma", "number"), [(5.0, 1), (5.0, 25), (20.0, 100), (2.0, 9)])
def test_without_sampling_it_is_the_analytic_gaussian_mechanism(sigma, number):
    exact = analytic_gaussian(sigma / math.sqrt(number), 1e-5)
    assert exact <= epsilon_of([(1.0, sigma, number)], 1e-5, "pld") <= exact * 1.002 + 1e-3
    assert exact < epsilon_of([(1.0, sigma, number)], 1e-5, "rdp") < 1.2 * exact


def test_the_distribution_is_tighter_and_grows_with_every_step():
    losses = [epsilon_of([(0.1, 1.2, number)], 1e-5, "pld") for number in (10, 100, 400)]
    assert losses == sorted(losses)
    assert all(
        own < epsilon_of([(0.1, 1.2, number)], 1e-5, "rdp") for own, number in zip(losses, (10, 100, 400), strict=True)
    )


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_a_ledger_is_one_composition_whatever_its_rows(accountant):
    whole = epsilon_of([(0.1, 1.2, 300), (0.2, 2.0, 50)], 1e-5, accountant)
    parts = epsilon_of([(0.1, 1.2, 100), (0.2, 2.0, 50), (0.1, 1.2, 200)], 1e-5, accountant)
    assert parts == whole > epsilon_of([(0.1, 1.2, 300)], 1e-5, accountant)
    assert epsilon_of([], 1e-5, accountant) == epsilon_of([(0.1, 1.2, 0)], 1e-5, accountant) == 0


def test_where_next_to_nothing_is_promised_the_quick_accountant_has_to_do():
    steps = [(1.0, 0.1, 1000)]
    assert epsilon_of(steps, 1e-5, "pld") == epsilon_of(steps, 1e-5, "rdp") > LARGEST_DISTRIBUTION


@pytest.mark.parametrize(
    ("rate", "number", "epsilon", "accountant"),
    [(0.15, 600, 4.0, "pld"), (0.15, 600, 4.0, "rdp"), (1.0, 20, 0.1, "pld"), (0.05, 50, 40.0, "pld")],
)
def test_calibrated_noise_is_enough_and_hardly_more(rate, number, epsilon, accountant):
    found = calibrate(rate, number, epsilon, 1e-5, accountant)
    assert epsilon_of([(rate, found, number)], 1e-5, accountant) <= epsilon
    assert epsilon_of([(rate, found * 0.995, number)], 1e-5, accountant) > epsilon
