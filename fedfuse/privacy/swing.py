"""Soften and noise each soft label by how likely it is to tell of private data.

Swing-style, after Li et al. 2022 (arXiv 2212.08349), of which we read the abstract and introduction only: a
temperature that adapts to the likelihood of private content, and noise in the soft targets. The formulas are ours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedfuse.errors import ConfigurationError, unknown_name
from fedfuse.fusion import SMALLEST_PROBABILITY
from fedfuse.privacy.exposure import Exposure
from fedfuse.privacy.flags import read_flags
from fedfuse.privacy.guarantee import Guarantee
from fedfuse.privacy.noise import check_distribution, draw_noise
from fedfuse.privacy.protector import Context, Role
from fedfuse.privacy.simplex import project_to_simplex

LIKELIHOODS = ("memorisation", "density", "flags")


@dataclass(frozen=True)
class Swing:
    r"""Swing-style: per-sample temperature and noise from a privacy likelihood; no guarantee, measured by audit.

    With the likelihood :math:`s_i \in [0, 1]` of sample i:

    .. math:: T_i = T_{min} + (T_{max} - T_{min}) s_i, \qquad
              q_i = \Pi\left(softmax(\log p_i / T_i) + b\, s_i\, \xi_i\right)

    where :math:`\Pi` projects to the simplex. The controls are constant over the samples of a message: the temperature
    with the same mean, the noise with the same power.

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
        confidence that the fused soft label has in it); one half before anything was fused. ``"density"``: the share
        of the client's own samples that its density makes less likely than the transfer sample. ``"flags"``: the
        user's own judgement, see ``flags``.
    sharpness : float
        How quickly the likelihood rises with the difference of confidences, positive.
    flags : str or Sequence[int], optional
        The transfer samples that may tell of private data: their rows, or a file with a number in [0, 1] for each
        transfer sample (``.npy``, or text with a number a line).
    adaptive_temperature, adaptive_noise : bool
        Whether each sample has its own; if not, the control.

    Raises
    ------
    ConfigurationError
        If the distribution or the likelihood is unknown, or the flags cannot be used.
    ValueError
        If a number is out of range.
    """

    minimum_temperature: float = 1.0
    maximum_temperature: float = 8.0
    noise_scale: float = 0.05
    distribution: str = "laplace"
    likelihood: str = "memorisation"
    sharpness: float = 5.0
    flags: str | Sequence[int] | None = None
    adaptive_temperature: bool = True
    adaptive_noise: bool = True
    carrier: ClassVar[str] = "soft_labels"
    role: ClassVar[Role] = "heuristic"

    def __post_init__(self) -> None:
        check_distribution(self.distribution)
        if self.likelihood not in LIKELIHOODS:
            raise unknown_name("privacy likelihood", self.likelihood, LIKELIHOODS)
        if (self.flags is not None) != (self.likelihood == "flags"):
            raise ConfigurationError(
                "likelihood=flags needs flags: the rows of transfer samples, or a file with a number for each."
                if self.flags is None
                else f"flags are for likelihood=flags, not for likelihood={self.likelihood}."
            )
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

    @property
    def uses_private_data(self) -> bool:
        """Whether the likelihood looks at the client's data."""
        return self.likelihood == "density"

    def check_transfer(self, num_samples: int) -> None:
        """Raise `ConfigurationError` unless the flags, if any, are for a transfer set of this size."""
        if self.flags is not None:
            read_flags(self.flags, num_samples)

    def guarantee(self, exposure: Exposure, num_rounds: int) -> Guarantee:
        """State that nothing is guaranteed."""
        adapts = [self.adaptive_temperature, self.adaptive_noise]
        constant = [name for name, adaptive in zip(("temperature", "noise"), adapts, strict=True) if not adaptive]
        control = f", {' and '.join(constant)} the same for all samples" if constant else ""
        return Guarantee(
            "swing",
            f"Swing-style temperature {self.minimum_temperature:g} to {self.maximum_temperature:g} and "
            f"{self.distribution} noise up to scale {self.noise_scale:g}, by {self.likelihood} likelihood{control}",
        )

    def privacy_likelihood(self, soft_labels: Tensor, context: Context) -> Tensor:
        """Estimate how likely each soft label tells of private data, ``[R]`` in [0, 1]."""
        if self.flags is not None:
            return read_flags(self.flags, context.num_transfer)[context.rows].to(soft_labels)
        if self.likelihood == "density":
            return context.likeness().to(soft_labels)
        if context.reference is None:
            return torch.full_like(soft_labels[:, 0], 0.5)
        confidence, answer = soft_labels.max(dim=1)
        reference_confidence = context.reference.to(soft_labels.dtype).gather(1, answer.unsqueeze(1)).squeeze(1)
        return torch.sigmoid(self.sharpness * (confidence - reference_confidence))

    def strengths(self, likelihood: Tensor) -> tuple[Tensor, Tensor]:
        """Return the temperature and the noise scale of each sample, or of the controls: ``[R, 1]`` both."""
        span = self.maximum_temperature - self.minimum_temperature
        for_temperature = likelihood if self.adaptive_temperature else likelihood.mean().expand_as(likelihood)
        power = likelihood.square()
        for_noise = (power if self.adaptive_noise else power.mean().expand_as(power)).sqrt()
        return (
            (self.minimum_temperature + span * for_temperature).unsqueeze(1),
            (self.noise_scale * for_noise).unsqueeze(1),
        )

    def __call__(self, soft_labels: Tensor, context: Context) -> Tensor:
        """Return softened and noised probabilities ``[R, C]``."""
        temperature, scale = self.strengths(self.privacy_likelihood(soft_labels, context))
        softened = torch.softmax(soft_labels.clamp_min(SMALLEST_PROBABILITY).log() / temperature, dim=1)
        noise = draw_noise(self.distribution, soft_labels.shape, context.generator).to(soft_labels.dtype)
        return project_to_simplex(softened + scale * noise)
