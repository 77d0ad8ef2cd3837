"""Add accounted Gaussian noise to soft labels."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedfuse.privacy.accounting import check_delta, check_delta_for, zcdp_to_epsilon
from fedfuse.privacy.discrete_gaussian import DEVIATION, draw
from fedfuse.privacy.exposure import Exposure
from fedfuse.privacy.guarantee import FROM_THE_SYSTEM, SEEDED, Guarantee
from fedfuse.privacy.protector import Context, Role
from fedfuse.privacy.simplex import project_to_simplex

SMALLEST_SIGMA, LARGEST_SIGMA = 1e-4, 1e4
# Taken off before rounding down, so that what floating point rounds up stays below the bound.
MARGIN = 1e-12


class UnboundedError(Exception):
    """A vector is longer than the noise is accounted for."""


@dataclass(frozen=True)
class Gaussian:
    r"""Discrete Gaussian noise on every probability; differentially private for a client's data as a whole.

    Protects all data of one client, whatever they are replaced by, against everyone who sees what the client sends,
    the server included. The guarantee follows in four steps.

    1. Soft labels p are scaled by the number of steps that make up a probability of one, and rounded to whole numbers
       towards zero, which makes no vector longer. So two answers to one question are within the sensitivity of each
       other, :math:`\Delta \le \sqrt 2`; it is checked in whole numbers.
    2. A discrete Gaussian of deviation sigma on each makes an answer :math:`\Delta^2 / 2 \sigma^2`-zCDP.
    3. Over M samples and R rounds, where each question may depend on all answers before,
       :math:`\rho = M R \Delta^2 / 2 \sigma^2`, and epsilon follows by `zcdp_to_epsilon`.
    4. Projection to the simplex, and whatever happens later, sees the noised numbers only.

    A step is sigma / 256, so one table serves every sigma; only the average of more than a hundred thousand clients is
    noised so little that rounding shows.

    Sources: Canonne, Kamath and Steinke, NeurIPS 2020 (arXiv 2004.00010), for the discrete Gaussian in one dimension
    and many; Bun and Steinke, TCC 2016 (arXiv 1605.02065), lemma 2.3, for composition.

    Parameters
    ----------
    sigma : float
        Standard deviation of the noise on a probability, from 1e-4 to 1e4.
    delta : float
        How likely more than epsilon may be lost, in (0, 1), below one in the number of clients.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    sigma: float
    delta: float = 1e-5
    carrier: ClassVar[str] = "soft_labels"
    role: ClassVar[Role] = "mechanism"
    needs_reference: ClassVar[bool] = False
    uses_private_data: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not SMALLEST_SIGMA <= self.sigma <= LARGEST_SIGMA:
            raise ValueError(f"sigma={self.sigma} must be positive, from {SMALLEST_SIGMA:g} to {LARGEST_SIGMA:g}")
        check_delta(self.delta)

    @property
    def steps(self) -> Fraction:
        """How many steps make up a probability of one, so that sigma is the deviation of the draws."""
        return DEVIATION / Fraction(self.sigma)

    def guarantee(self, exposure: Exposure, num_rounds: int) -> Guarantee:
        """State what all answers of so many rounds lose.

        Raises
        ------
        ConfigurationError
            If delta is not below one in the number of clients.
        """
        check_delta_for("gaussian", self.delta, exposure.num_clients, "client")
        rho = num_rounds * exposure.num_rows * (exposure.sensitivity / self.sigma) ** 2 / 2
        return Guarantee(
            "gaussian",
            f"discrete Gaussian noise of deviation {self.sigma:g} on soft labels at most {exposure.sensitivity:.4g} "
            f"apart, of {exposure.num_rows} samples a round",
            "client",
            "everyone who sees what it sends, the server included",
            zcdp_to_epsilon(rho, self.delta),
            self.delta,
            FROM_THE_SYSTEM if exposure.secure else SEEDED,
        )

    def __call__(self, soft_labels: Tensor, context: Context) -> Tensor:
        """Return noised probabilities ``[R, C]``."""
        whole = in_steps(soft_labels.double().numpy(), context.radius, self.steps)
        noised = whole + draw(whole.size, context.keystream).reshape(whole.shape)
        # Whether uniform was taken off or not: a constant does not change the projection.
        return project_to_simplex(torch.from_numpy(noised / float(self.steps))).to(soft_labels.dtype)


def in_steps(soft_labels: NDArray[np.float64], radius: float | None, steps: Fraction) -> NDArray[np.int64]:
    r"""Write soft labels in whole numbers that are as close to each other as `fedfuse.privacy.clip.diameter` says.

    Vectors without negative entries that are no longer than L are within :math:`\sqrt 2 L` of each other. Where the
    radius is below :math:`1 / \sqrt C`, deviations from uniform that are no longer than it are closer still, twice the
    radius.

    Parameters
    ----------
    soft_labels : NDArray
        ``[R, C]``. A row that is no distribution becomes uniform, so that failing tells nothing either.
    radius : float, optional
        How far from uniform they are at most, up to rounding.
    steps : Fraction
        How many make up a probability of one.

    Returns
    -------
    NDArray
        int64 ``[R, C]``.

    Raises
    ------
    UnboundedError
        If the bound does not hold, in exact arithmetic.
    """
    num_classes = soft_labels.shape[1]
    uniform = 1 / num_classes
    positive = np.maximum(soft_labels, 0)
    with np.errstate(over="ignore"):
        total = positive.sum(1, keepdims=True)
    usable = np.isfinite(total) & (total > 0)
    deviation = np.where(usable, positive / np.where(usable, total, 1), uniform) - uniform
    longest = Fraction(1)
    if radius is not None:
        length = np.sqrt((deviation**2).sum(1, keepdims=True))
        deviation *= radius / np.maximum(length, radius)
        longest = min(longest, Fraction(radius) ** 2 + Fraction(1, num_classes))
    if radius is not None and radius**2 * num_classes < 1:
        longest = Fraction(radius) ** 2
        values = deviation
    else:
        values = np.maximum(uniform + deviation, 0)
    whole: NDArray[np.int64] = np.trunc((1 - MARGIN) * float(steps) * values).astype(np.int64)
    if int((whole**2).sum(1).max(initial=0)) > longest * steps**2:
        raise UnboundedError(f"soft labels are longer than {math.sqrt(longest):g}")
    return whole
