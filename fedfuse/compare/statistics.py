"""Means over seeds, and whether a difference is more than chance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
NO_SPREAD = 1e-12
"""Accuracies of the same size differ by this little through rounding alone."""


@dataclass(frozen=True)
class Estimate:
    """A measure over seeds.

    Parameters
    ----------
    mean : float
        Every seed counts the same.
    std : float or None
        The sample standard deviation, with n - 1; None for a single seed.
    num_seeds : int
        How many values were known.
    """

    mean: float
    std: float | None
    num_seeds: int


@dataclass(frozen=True)
class Difference:
    """How much higher a measure is than that of another method with the same seeds.

    Parameters
    ----------
    mean : float
        The mean difference over seeds.
    low, high : float or None
        Its 95 % confidence interval.
    p : float or None
        The chance of a difference as large as this one if there were none: a two-sided paired t-test.
    adjusted_p : float or None
        The same, adjusted for how many methods were tested (`holm`).
    num_seeds : int
        How many seeds both methods have.
    reason : str or None
        Why there is no test, where there is none: interval and chance are None then.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    adjusted_p: float | None
    num_seeds: int
    reason: str | None


def estimate(values: Sequence[float]) -> Estimate | None:
    """Summarise one measure over seeds; None without values."""
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Estimate(mean, None, 1)
    squares = math.fsum((value - mean) ** 2 for value in values)
    return Estimate(mean, math.sqrt(squares / (len(values) - 1)), len(values))


def paired_difference(values: Sequence[float], others: Sequence[float]) -> Difference | None:
    """Test whether values are higher or lower than others on average; None without values.

    Parameters
    ----------
    values, others : sequence of float
        Of the same seeds, in the same order.

    Returns
    -------
    Difference or None
        Not yet adjusted for other tests.
    """
    spread = estimate([value - other for value, other in zip(values, others, strict=True)])
    if spread is None:
        return None
    if spread.std is None or spread.std < NO_SPREAD:
        reason = "one seed" if spread.std is None else "no variance"
        return Difference(spread.mean, None, None, None, None, spread.num_seeds, reason)
    from scipy import stats  # slow to import

    test = stats.ttest_rel(values, others)
    low, high = test.confidence_interval(CONFIDENCE)
    return Difference(spread.mean, float(low), float(high), float(test.pvalue), None, spread.num_seeds, None)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the chances of several tests, so that one false alarm among all of them stays as rare as in one test.

    The smallest of m is multiplied by m, the next by m - 1 and so on; none gets smaller than one before it, and
    none exceeds 1 (Holm, 1979).
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = largest
    return adjusted
