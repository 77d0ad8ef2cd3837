"""From what one answer loses to what all of them lose: composition, and conversion to epsilon and delta."""

import math
from functools import cache

from fedfuse.errors import ConfigurationError


def check_delta(delta: float) -> None:
    """Raise `ValueError` unless delta is a probability that is neither zero nor one."""
    if not 0 < delta < 1:
        raise ValueError(f"delta={delta} must be in (0, 1)")


def check_delta_for(protector: str, delta: float, number: int, unit: str) -> None:
    """Refuse a delta that would let the data of one of so many units be given away altogether.

    Raises
    ------
    ConfigurationError
        Unless it is below one in ``number``.
    """
    if delta * number >= 1:
        raise ConfigurationError(
            f"privacy: delta={delta:g} of {protector} must be below 1/{number}, one in the number of {unit}s: "
            f"with that chance a {unit} need not be protected at all."
        )


def zcdp_to_epsilon(rho: float, delta: float) -> float:
    r"""Convert zero-concentrated differential privacy, for every delta as well as it can be from all orders at once.

    The smallest of

    .. math:: \epsilon(\alpha) = \alpha \rho + \log(1 - 1/\alpha) + \frac{\log(1/\delta) - \log \alpha}{\alpha - 1}

    over orders :math:`\alpha > 1`. Its derivative is zero where :math:`\rho (\alpha - 1)^2 + \log \alpha =
    \log(1/\delta)`, which has one solution; an order that is off by rounding still gives a bound that holds.

    Source: Canonne, Kamath and Steinke, NeurIPS 2020 (arXiv 2004.00010), section 2.3.

    Parameters
    ----------
    rho : float
        The Renyi divergence of order alpha is at most ``alpha * rho``; positive.
    delta : float
        In (0, 1).
    """
    from scipy.optimize import brentq

    wanted = math.log(1 / delta)
    excess = float(brentq(lambda t: rho * t * t + math.log1p(t) - wanted, 0.0, math.sqrt(wanted / rho), xtol=1e-30))
    order = 1 + excess
    epsilon = order * rho + math.log(excess / order) + (wanted - math.log(order)) / excess
    return max(0.0, epsilon)


def epsilon_to_zcdp(epsilon: float, delta: float) -> float:
    """Return the largest rho that `zcdp_to_epsilon` converts to no more than epsilon, found by halving.

    Parameters
    ----------
    epsilon : float
        Positive and finite.
    delta : float
        In (0, 1).
    """
    below, above = 0.0, epsilon
    while zcdp_to_epsilon(above, delta) <= epsilon:
        below, above = above, 2 * above
    while above - below > 1e-12 * above:
        middle = (below + above) / 2
        if zcdp_to_epsilon(middle, delta) <= epsilon:
            below = middle
        else:
            above = middle
    return below


@cache
def randomised_response_epsilon(epsilon_per_answer: float, num_classes: int, num_answers: int, delta: float) -> float:
    """Compose answers given by randomised response as well as can be: the smallest epsilon that holds for delta.

    Found by halving, and rounded up. Never more than ``num_answers * epsilon_per_answer``, which needs no delta.

    Parameters
    ----------
    epsilon_per_answer : float
        Of one answer, positive.
    num_classes : int
        C: what can be answered.
    num_answers : int
        How many answers, each about anything, also about what the ones before were.
    delta : float
        In (0, 1).
    """
    below, above = 0.0, num_answers * epsilon_per_answer
    if randomised_response_delta(below, epsilon_per_answer, num_classes, num_answers, delta) <= delta:
        return below
    while above - below > 1e-8 * above:
        middle = (below + above) / 2
        if randomised_response_delta(middle, epsilon_per_answer, num_classes, num_answers, delta) <= delta:
            above = middle
        else:
            below = middle
    return above


def randomised_response_delta(
    epsilon: float, epsilon_per_answer: float, num_classes: int, num_answers: int, tolerance: float
) -> float:
    r"""Compute the exact delta of many answers given by randomised response.

    An answer tells two true classes apart only if it is one of them, with probability :math:`(e^{\epsilon_0} + 1) /
    (e^{\epsilon_0} + C - 1)`; of those z answers that do, each is then randomised response to a question of two, and
    the number of them that are true is binomial under both. So with :math:`p = e^{\epsilon_0} / (1 + e^{\epsilon_0})`

    .. math:: \delta(\epsilon) = E_z\left[P(B_{z, p} > t_z) - e^\epsilon P(B_{z, 1 - p} > t_z)\right], \qquad
              t_z = (z + \epsilon / \epsilon_0) / 2.

    Sources: Kairouz, Oh and Viswanath, ICML 2015, theorem 3.3, for two classes; the pair of answers is the worst one
    whatever is asked, so also when questions depend on answers (Zhu, Dong and Wang, AISTATS 2022, theorem 10).

    Parameters
    ----------
    epsilon : float
        Of all answers.
    epsilon_per_answer : float
        Of one.
    num_classes, num_answers : int
        See `randomised_response_epsilon`.
    tolerance : float
        Numbers z that are rarer than 1e-12 of it are counted as if they told everything.
    """
    import numpy as np
    from scipy.stats import binom

    odds = math.exp(-epsilon_per_answer)
    telling = (1 + odds) / (1 + (num_classes - 1) * odds)
    rare = 1e-12 * tolerance
    # From both ends: near one, floating point could not tell the rare numbers apart.
    fewest = int(max(0, binom.ppf(rare / 2, num_answers, telling)))
    most = num_answers - int(max(0, binom.ppf(rare / 2, num_answers, 1 - telling)))
    numbers = np.arange(fewest, most + 1)
    threshold = np.floor((numbers + epsilon / epsilon_per_answer) / 2)
    with np.errstate(divide="ignore"):
        here = binom.sf(threshold, numbers, 1 / (1 + odds))
        there = np.exp(epsilon + binom.logsf(threshold, numbers, odds / (1 + odds)))
    return float(binom.pmf(numbers, num_answers, telling) @ np.maximum(here - there, 0)) + rare
