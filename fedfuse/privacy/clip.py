"""Bound how far soft labels are from the uniform distribution, so that less noise hides them."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedfuse.privacy.exposure import SIMPLEX_DIAMETER, Exposure
from fedfuse.privacy.guarantee import Guarantee
from fedfuse.privacy.protector import Context, Role


def diameter(radius: float, num_classes: int) -> float:
    r"""Bound how far apart two soft labels are that are both this close to the uniform distribution.

    The smaller of twice the radius r (through the centre), and :math:`\sqrt{2 (r^2 + 1/C)}`: the angle between vectors
    without negative entries is a right one at most, and :math:`\|p\|^2 = \|p - 1/C\|^2 + 1/C`.

    Parameters
    ----------
    radius : float
        Euclidean.
    num_classes : int
        C.
    """
    return min(2 * radius, math.sqrt(2 * (radius**2 + 1 / num_classes)), SIMPLEX_DIAMETER)


@dataclass(frozen=True)
class Clip:
    r"""Move soft labels towards the uniform distribution until they are within a radius; no guarantee by itself.

    .. math:: q = u + \min(1, r / \|p - u\|) (p - u)

    with the uniform distribution u, so that q is a mixture of both and on the simplex. Noise after it has less to hide:
    see `diameter`. That pays where soft labels are soft; a certain one, at :math:`\sqrt{1 - 1/C}` from u, loses more
    to the radius than the noise does.

    Parameters
    ----------
    radius : float
        r, Euclidean, positive.

    Raises
    ------
    ValueError
        If the radius is not positive and finite.
    """

    radius: float = 0.5
    carrier: ClassVar[str] = "soft_labels"
    role: ClassVar[Role] = "bound"
    needs_reference: ClassVar[bool] = False
    uses_private_data: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.radius) and self.radius > 0):
            raise ValueError(f"radius={self.radius} must be positive and finite")

    def guarantee(self, exposure: Exposure, num_rounds: int) -> Guarantee:
        """State that nothing is guaranteed: a bound alone hides nothing."""
        return Guarantee("clip", f"soft labels within {self.radius:g} of the uniform distribution")

    def __call__(self, soft_labels: Tensor, context: Context) -> Tensor:
        """Return probabilities ``[R, C]`` within the radius, up to rounding."""
        uniform = 1 / soft_labels.shape[1]
        deviation = soft_labels - uniform
        length = torch.linalg.vector_norm(deviation, dim=1, keepdim=True)
        # At least the radius, so that a uniform row, which has no direction, stays where it is.
        kept: Tensor = self.radius / length.clamp_min(self.radius)
        return deviation * kept + uniform
