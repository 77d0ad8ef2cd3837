"""What private training costs: the privacy loss of noised gradient steps, and the noise that keeps it within a target.

A step adds Gaussian noise to a sum over a Poisson sample: every example is in it with the same probability,
independently. Both accountants are those of the package dp_accounting, for adding or removing one example:

* ``rdp``: Renyi differential privacy of the sampled Gaussian mechanism at integer orders (Mironov, Talwar and Zhang,
  2019, arXiv 1908.10530, section 3.3), added over the steps and converted (Canonne, Kamath and Steinke, 2020, arXiv
  2004.00010, proposition 12). Quick.
* ``pld``: the privacy loss distribution, discretised so that it is never understated, and composed by Fourier transform
  (Koskela, Jaelkoe and Honkela, AISTATS 2020; Doroshenko et al., PoPETs 2022). Tighter.
"""

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

ACCOUNTANTS = ("pld", "rdp")
ORDERS = (*range(2, 65), 72, 80, 96, 112, 128, 160, 192, 256, 384, 512, 1024)
# How finely the privacy loss is discretised: a tenth of it changes the fourth digit of epsilon, and takes ten times as
# long.
INTERVAL = 1e-3
# Above this epsilon, which promises next to nothing, the quick accountant has to do: the other's memory grows with it.
LARGEST_DISTRIBUTION = 50.0
# How close to the smallest noise that is enough a calibration comes.
PRECISION = 1e-3

# So many steps with this sampling rate and noise multiplier.
Steps = tuple[float, float, int]


def epsilon_of(taken: Iterable[Steps], delta: float, accountant: str) -> float:
    """Compute the privacy loss of all steps together.

    Parameters
    ----------
    taken : Iterable[Steps]
        Sampling rate, in (0, 1]; standard deviation of the noise in units of the largest norm of an example's gradient,
        above 0; and number of steps.
    delta : float
        In (0, 1).
    accountant : str
        One of `ACCOUNTANTS`.

    Returns
    -------
    float
        Epsilon; 0 for no steps.
    """
    together: dict[tuple[float, float], int] = {}
    for rate, noise_multiplier, number in taken:
        together[rate, noise_multiplier] = together.get((rate, noise_multiplier), 0) + number
    steps = tuple((*kind, number) for kind, number in sorted(together.items()) if number > 0)
    if not steps:
        return 0.0
    quick = _epsilon_by_rdp(steps, delta)
    # Neither understates it, so the smaller one holds.
    return quick if accountant == "rdp" or quick > LARGEST_DISTRIBUTION else min(quick, _epsilon_by_pld(steps, delta))


@functools.lru_cache(maxsize=4096)
def calibrate(rate: float, number: int, epsilon: float, delta: float, accountant: str) -> float:
    """Find the least noise that keeps so many steps within a target.

    Parameters
    ----------
    rate : float
        The sampling rate.
    number : int
        How many steps there are, at least 1.
    epsilon, delta : float
        The target.
    accountant : str
        One of `ACCOUNTANTS`.

    Returns
    -------
    float
        The noise multiplier: never less than what is needed, and hardly more.
    """
    from scipy.optimize import brentq

    def excess(noise_multiplier: float) -> float:
        return epsilon_of([(rate, noise_multiplier, number)], delta, accountant) - epsilon

    enough = 1.0
    while epsilon_of([(rate, enough, number)], delta, "rdp") > epsilon:
        enough *= 2
    too_little = enough / 2
    while excess(too_little) <= 0:
        enough, too_little = too_little, too_little / 2
    found: float = brentq(excess, too_little, enough, rtol=PRECISION)
    while excess(found) > 0:
        found *= 1 + PRECISION
    return found


@functools.lru_cache(maxsize=4096)
def _curve(rate: float, noise_multiplier: float) -> NDArray[np.float64]:
    """Return the Renyi divergence of one step at every order."""
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(ORDERS)
    accountant.compose(_event(rate, noise_multiplier))
    return np.asarray(accountant.rdp, dtype=np.float64)


@functools.lru_cache(maxsize=4096)
def _epsilon_by_rdp(steps: tuple[Steps, ...], delta: float) -> float:
    from dp_accounting.rdp import compute_epsilon

    total = sum(number * _curve(rate, noise_multiplier) for rate, noise_multiplier, number in steps)
    return float(compute_epsilon(ORDERS, total, delta)[0])


@functools.lru_cache(maxsize=4096)
def _epsilon_by_pld(steps: tuple[Steps, ...], delta: float) -> float:
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(value_discretization_interval=INTERVAL)
    for rate, noise_multiplier, number in steps:
        accountant.compose(_event(rate, noise_multiplier), number)
    return float(accountant.get_epsilon(delta))


def _event(rate: float, noise_multiplier: float) -> Any:  # noqa: ANN401 the package comes without types
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent

    gaussian = GaussianDpEvent(noise_multiplier)
    return gaussian if rate == 1 else PoissonSampledDpEvent(rate, gaussian)
