"""Decoupled knowledge distillation (Zhao et al., CVPR 2022, arXiv 2203.08679)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedfuse.fusion import SMALLEST_PROBABILITY
from fedfuse.models.outputs import Outputs
from fedfuse.objectives.objective import Batch, State


@dataclass(frozen=True)
class DKD:
    r"""Decoupled knowledge distillation: how sure of the likeliest class, and what else it could be, weighed apart.

    .. math:: T^2 \left( \alpha\, KL(b_p \,\|\, b_q) + \beta\, KL(\hat p \,\|\, \hat q) \right)

    with p and q the soft label and the answer, both softened by T, :math:`b_p = (p_t, 1 - p_t)`, and :math:`\hat p` the
    soft label among all classes but t, renormalised. Knowledge distillation is the case in which beta is
    :math:`\alpha (1 - p_t)`: it hardly looks at the other classes of a sample that the teacher is sure of.

    The paper's t is the true class. Transfer samples have none, so t is the likeliest class of the soft label (the
    first of equally likely ones), which means little where the soft label is nearly uniform; the paper's linear
    warm-up over epochs is left out.

    Parameters
    ----------
    temperature : float
        T, positive.
    alpha : float
        The factor of the divergence between likeliest class and rest, not negative.
    beta : float
        The factor of the divergence among the rest, not negative.

    Raises
    ------
    ValueError
        If the temperature is not positive and finite, or a factor negative or not finite.
    """

    temperature: float = 4.0
    alpha: float = 1.0
    beta: float = 8.0
    needs: ClassVar[frozenset[str]] = frozenset({"soft_labels"})
    per_sample: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature={self.temperature} must be positive and finite")
        for name, factor in (("alpha", self.alpha), ("beta", self.beta)):
            if not (math.isfinite(factor) and factor >= 0):
                raise ValueError(f"{name}={factor} must be finite and not negative")

    def initial_state(self) -> State:
        """Return nothing: this loss has no memory."""
        return {}

    def __call__(self, outputs: Outputs, batch: Batch, mask: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the weighted sum of both divergences of every sample, ``[B]``."""
        soft_labels = batch["soft_labels"]
        classes = torch.arange(soft_labels.shape[1], device=soft_labels.device)
        likeliest = classes == soft_labels.argmax(1, keepdim=True)
        log_target = torch.log(soft_labels.clamp_min(SMALLEST_PROBABILITY))
        target_pair, target_rest = _decouple(log_target / self.temperature, likeliest)
        student_pair, student_rest = _decouple(outputs.logits / self.temperature, likeliest)
        pair = (target_pair.exp() * (target_pair - student_pair)).sum(1)
        rest = (target_rest.exp() * (target_rest - student_rest)).sum(1)
        return self.temperature**2 * (self.alpha * pair + self.beta * rest), state


def _decouple(logits: Tensor, likeliest: Tensor) -> tuple[Tensor, Tensor]:
    """Return log-probabilities ``[B, 2]`` of likeliest class and rest, and ``[B, C]`` among the rest.

    The likeliest class has no place in the rest: its 0 differs by nothing from that of the other side.
    """
    others = logits.masked_fill(likeliest, -math.inf)
    log_sum_of_others = torch.logsumexp(others, dim=1, keepdim=True)
    own = torch.where(likeliest, logits, 0).sum(1, keepdim=True)
    pair = torch.log_softmax(torch.cat([own, log_sum_of_others], dim=1), dim=1)
    return pair, torch.where(likeliest, 0, logits - log_sum_of_others)
