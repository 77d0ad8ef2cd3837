"""Distillation of correlations (DIST, Huang et al., NeurIPS 2022, arXiv 2205.10536)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedfuse.fusion import SMALLEST_PROBABILITY
from fedfuse.models.outputs import Outputs
from fedfuse.objectives.objective import Batch, State

# Probabilities whose standard deviation is less than this differ by rounding alone, and correlate with nothing.
ROUNDED_OFF = 1e-6


@dataclass(frozen=True)
class DIST:
    r"""Distillation of correlations: between classes for each sample, and between samples of a batch for each class.

    .. math:: \beta \left(1 - \frac{1}{B} \sum_i r(q_{i \cdot}, p_{i \cdot})\right)
              + \gamma \left(1 - \frac{1}{C} \sum_c r(q_{\cdot c}, p_{\cdot c})\right)

    with r Pearson's correlation, p and q the soft labels and the answers, both softened by T. It is free of shift and
    scale, so that a student may be surer or less sure than what it learns from. So there is no factor of T squared.

    Beyond the paper, what is constant is left out of the means, in the soft labels or the answers: uniform rows, and
    classes that are equally likely in all samples of the batch, as every class is in a batch of one.

    Parameters
    ----------
    inter : float
        The factor beta of the correlations between classes, not negative.
    intra : float
        The factor gamma of the correlations between samples, not negative.
    temperature : float
        T, positive.

    Raises
    ------
    ValueError
        If a factor is negative or not finite, or the temperature not positive and finite.
    """

    inter: float = 1.0
    intra: float = 1.0
    temperature: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset({"soft_labels"})
    per_sample: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name, factor in (("inter", self.inter), ("intra", self.intra)):
            if not (math.isfinite(factor) and factor >= 0):
                raise ValueError(f"{name}={factor} must be finite and not negative")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature={self.temperature} must be positive and finite")

    def initial_state(self) -> State:
        """Return nothing: this loss has no memory."""
        return {}

    def __call__(self, outputs: Outputs, batch: Batch, mask: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the loss of the batch, a scalar."""
        log_target = torch.log(batch["soft_labels"].clamp_min(SMALLEST_PROBABILITY))
        target = torch.softmax(log_target / self.temperature, dim=1)
        student = torch.softmax(outputs.logits / self.temperature, dim=1)
        counted = mask.unsqueeze(1).expand_as(target)
        inter = _mean_distance(student, target, counted)
        intra = _mean_distance(student.T, target.T, counted.T)
        return self.inter * inter + self.intra * intra, state


def _mean_distance(student: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """Return 1 - Pearson's correlation, mean over the rows in which neither side is constant; 0 if there are none.

    Parameters
    ----------
    student, target : Tensor
        Probabilities ``[R, K]``.
    counted : Tensor
        Bool ``[R, K]``: the numbers of a row that count.
    """
    number = counted.sum(1, keepdim=True).clamp_min(1)
    student, target = (
        torch.where(counted, side - torch.where(counted, side, 0).sum(1, keepdim=True) / number, 0)
        for side in (student, target)
    )
    student_variance, target_variance = ((side.square() / number).sum(1) for side in (student, target))
    varies = (student_variance > ROUNDED_OFF**2) & (target_variance > ROUNDED_OFF**2)
    covariance = (student * target / number).sum(1)
    # Replaced before the root is taken, which has no gradient at 0.
    correlation = covariance / torch.where(varies, student_variance * target_variance, 1).sqrt()
    return torch.where(varies, 1 - correlation, 0).sum() / varies.sum().clamp_min(1)
