"""Add noise to soft labels."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedfuse.errors import unknown_name
from fedfuse.privacy.exposure import Exposure
from fedfuse.privacy.guarantee import Guarantee
from fedfuse.privacy.protector import Context, Role
from fedfuse.privacy.simplex import project_to_simplex

DISTRIBUTIONS = ("gaussian", "laplace")


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
    """Gaussian or Laplace noise on every probability, projected back to the simplex; noised, without a guarantee.

    Parameters
    ----------
    scale : float
        Standard deviation (``gaussian``) or scale (``laplace``), not negative.
    distribution : str
        ``"gaussian"`` or ``"laplace"``.

    Raises
    ------
    ConfigurationError
        If the distribution is unknown.
    ValueError
        If the scale is negative or not finite.
    """

    scale: float = 0.05
    distribution: str = "gaussian"
    carrier: ClassVar[str] = "soft_labels"
    role: ClassVar[Role] = "heuristic"
    needs_reference: ClassVar[bool] = False
    uses_private_data: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_distribution(self.distribution)
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise ValueError(f"scale={self.scale} must be finite and not negative")

    def guarantee(self, exposure: Exposure, num_rounds: int) -> Guarantee:
        """State that nothing is guaranteed: one record can move a soft label by more than such noise hides."""
        return Guarantee("noise", f"{self.distribution} noise of scale {self.scale:g} on soft labels")

    def __call__(self, soft_labels: Tensor, context: Context) -> Tensor:
        """Return noised probabilities ``[R, C]``."""
        noise = draw_noise(self.distribution, soft_labels.shape, context.generator).to(soft_labels.dtype)
        return project_to_simplex(soft_labels + self.scale * noise)
