"""Soften and noise each soft label by how likely it is to tell of private data.

Swing-style, after Li et al. 2022 (arXiv 2212.08349), of which we read the abstract and introduction only: a
temperature that adapts to the likelihood of private content, and noise in the soft targets. The formulas are ours.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedfuse.errors import unknown_name
from fedfuse.fusion import SMALLEST_PROBABILITY
from fedfuse.privacy.exposure import Exposure
from fedfuse.privacy.guarantee import Guarantee
from fedfuse.privacy.noise import check_distribution, draw_noise
from fedfuse.privacy.protector import Context, Role
from fedfuse.privacy.simplex import project_to_simplex

LIKELIHOODS = ("memorisation", "constant")


@dataclass(frozen=True)
class Swing:
    r"""Swing-style: per-sample temperature and noise from a privacy likelihood; no guarantee, measured by audit.

    With the likelihood :math:`s_i \in [0, 1]` of sample i:

    .. math:: T_i = T_{min} + (T_{max} - T_{min}) s_i, \qquad
              q_i = \Pi\left(softmax(\log p_i / T_i) + b\, s_i\, \xi_i\right)

    where :math:`\Pi` projects to the simplex.

    Parameters
    ----------
    minimum_temperature, maximum_temperature : float
        The temperatures of likelihood 0 and 1; ``1 <= minimum <= maximum``.
    noise_scale : float
        b: the noise of likelihood 1, not negative.
    distribution : str
        ``"gaussian"`` or ``"laplace"``.
    likelihood : str
        ``"memorisation"``: the logistic function of ``sharpness`` times (own confidence in the own answer, less the
        confidence that the fused soft label has in it); one half before anything was fused. ``"constant"``: one half
        for every sample, the control with the same mean.
    sharpness : float
        How quickly the likelihood rises with the difference of confidences, positive.

    Raises
    ------
    ConfigurationError
        If the distribution or the likelihood is unknown.
    ValueError
        If a number is out of range.
    """

    minimum_temperature: float = 1.0
    maximum_temperature: float = 8.0
    noise_scale: float = 0.05
    distribution: str = "laplace"
    likelihood: str = "memorisation"
    sharpness: float = 5.0
    carrier: ClassVar[str] = "soft_labels"
    role: ClassVar[Role] = "heuristic"
    uses_private_data: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_distribution(self.distribution)
        if self.likelihood not in LIKELIHOODS:
            raise unknown_name("privacy likelihood", self.likelihood, LIKELIHOODS)
        if not 1 <= self.minimum_temperature <= self.maximum_temperature < math.inf:
            raise ValueError(
                f"temperatures from {self.minimum_temperature} to {self.maximum_temperature} "
                "must satisfy 1 <= minimum <= maximum"
            )
        if not (math.isfinite(self.noise_scale) and self.noise_scale >= 0):
            raise ValueError(f"noise_scale={self.noise_scale} must be finite and not negative")
        if not (math.isfinite(self.sharpness) and self.sharpness > 0):
            raise ValueError(f"sharpness={self.sharpness} must be positive and finite")

    @property
    def needs_reference(self) -> bool:
        """Whether the likelihood compares with the fused soft labels."""
        return self.likelihood == "memorisation"

    def guarantee(self, exposure: Exposure, num_rounds: int) -> Guarantee:
        """State that nothing is guaranteed."""
        return Guarantee(
            "swing",
            f"Swing-style temperature {self.minimum_temperature:g} to {self.maximum_temperature:g} and "
            f"{self.distribution} noise up to scale {self.noise_scale:g}, by {self.likelihood} likelihood",
        )

    def privacy_likelihood(self, soft_labels: Tensor, reference: Tensor | None) -> Tensor:
        """Estimate how likely each soft label tells of private data, ``[R]`` in [0, 1]."""
        if reference is None or not self.needs_reference:
            return torch.full_like(soft_labels[:, 0], 0.5)
        confidence, answer = soft_labels.max(dim=1)
        reference_confidence = reference.to(soft_labels.dtype).gather(1, answer.unsqueeze(1)).squeeze(1)
        return torch.sigmoid(self.sharpness * (confidence - reference_confidence))

    def __call__(self, soft_labels: Tensor, context: Context) -> Tensor:
        """Return softened and noised probabilities ``[R, C]``."""
        likelihood = self.privacy_likelihood(soft_labels, context.reference).unsqueeze(1)
        span = self.maximum_temperature - self.minimum_temperature
        temperature = self.minimum_temperature + span * likelihood
        softened = torch.softmax(soft_labels.clamp_min(SMALLEST_PROBABILITY).log() / temperature, dim=1)
        noise = draw_noise(self.distribution, soft_labels.shape, context.generator).to(soft_labels.dtype)
        return project_to_simplex(softened + self.noise_scale * likelihood * noise)
