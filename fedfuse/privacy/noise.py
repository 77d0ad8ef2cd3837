"""Add noise to soft labels, or to the logits that they say the same as."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedfuse.errors import unknown_name
from fedfuse.fusion import SMALLEST_PROBABILITY
from fedfuse.privacy.exposure import Exposure
from fedfuse.privacy.guarantee import Guarantee
from fedfuse.privacy.protector import Context, Role
from fedfuse.privacy.simplex import project_to_simplex

DISTRIBUTIONS = ("gaussian", "laplace")
SPACES = ("probability", "logit")


def draw_noise(distribution: str, shape: torch.Size, generator: np.random.Generator) -> Tensor:
    """Draw float64 noise of standard deviation one (``gaussian``) or scale one (``laplace``)."""
    draw = generator.standard_normal if distribution == "gaussian" else generator.laplace
    return torch.from_numpy(draw(size=tuple(shape)))


def check_distribution(distribution: str) -> None:
    """Raise `ConfigurationError` unless the distribution is known."""
    if distribution not in DISTRIBUTIONS:
        raise unknown_name("noise distribution", distribution, DISTRIBUTIONS)


@dataclass(frozen=True)
class Noise:
    """Gaussian or Laplace noise on every probability or logit; noised, without a guarantee.

    Noised probabilities are projected back to the simplex. Logits are first brought to mean zero and clipped.

    Parameters
    ----------
    scale : float
        Standard deviation (``gaussian``) or scale (``laplace``), not negative.
    distribution : str
        ``"gaussian"`` or ``"laplace"``.
    space : str
        What is noised: ``"probability"`` or ``"logit"``.
    bound : float
        Logits are clipped to ``[-bound, bound]``, positive.

    Raises
    ------
    ConfigurationError
        If the distribution or the space is unknown.
    ValueError
        If a number is out of range.
    """

    scale: float = 0.05
    distribution: str = "gaussian"
    space: str = "probability"
    bound: float = 5.0
    carrier: ClassVar[str] = "soft_labels"
    role: ClassVar[Role] = "heuristic"
    needs_reference: ClassVar[bool] = False
    uses_private_data: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_distribution(self.distribution)
        if self.space not in SPACES:
            raise unknown_name("noise space", self.space, SPACES)
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise ValueError(f"scale={self.scale} must be finite and not negative")
        if not (math.isfinite(self.bound) and self.bound > 0):
            raise ValueError(f"bound={self.bound} must be positive and finite")

    def guarantee(self, exposure: Exposure, num_rounds: int) -> Guarantee:
        """State that nothing is guaranteed: one record can move a soft label by more than such noise hides."""
        where = "soft labels" if self.space == "probability" else f"logits clipped to {self.bound:g}"
        return Guarantee("noise", f"{self.distribution} noise of scale {self.scale:g} on {where}")

    def __call__(self, soft_labels: Tensor, context: Context) -> Tensor:
        """Return noised probabilities ``[R, C]``."""
        noise = draw_noise(self.distribution, soft_labels.shape, context.generator).to(soft_labels.dtype)
        if self.space == "probability":
            return project_to_simplex(soft_labels + self.scale * noise)
        logits = soft_labels.clamp_min(SMALLEST_PROBABILITY).log()
        clipped = (logits - logits.mean(1, keepdim=True)).clamp(-self.bound, self.bound)
        return torch.softmax(clipped + self.scale * noise, dim=1)
