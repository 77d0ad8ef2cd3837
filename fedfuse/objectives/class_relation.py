"""Keep one's own answer on known classes (class-relation distillation, Gu et al., ICCV 2023, arXiv 2307.09158)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedfuse.fusion import SMALLEST_PROBABILITY
from fedfuse.models.outputs import Outputs
from fedfuse.objectives.objective import Batch, State

# Stands for the logit of a class that does not take part: finite, so that no class at all gives no NaN.
LEFT_OUT = -1e30


@dataclass(frozen=True)
class ClassRelation:
    r"""Distillation for clients that lack classes: learn the soft label, keep the own answer on the known classes.

    .. math::

        L &= T^2\, KL\left(softmax(\log p / T) \,\|\, softmax(z / T)\right)
        + \lambda\, w(x)\, T^2\, KL\left(softmax_K(\log o / T) \,\|\, softmax_K(z / T)\right) \\
        w(x) &= \sum_{c \in K} o_c(x) \Big/ \mathrm{mean}_{x'} \sum_{c \in K} o_c(x')

    K are the classes that the client has training samples of, o is what it answered before it learnt from the soft
    labels p of this round. How the known classes relate is thus kept, and how likely they are together comes from the
    soft labels alone; samples of other classes keep little. The mean in w is over the batch.

    Cr-KD-style: in the paper a frozen model that was trained on the known classes is what is kept, samples of new
    classes are clustered rather than distilled, and the divergence lacks a constant; here o is the client's own
    model, each round anew, and soft labels take the place of clustering.

    Parameters
    ----------
    temperature : float
        T, positive, in both divergences. The paper has 4.
    weight : float
        The factor lambda, not negative; 0 is KD. The paper has 0.1.

    Raises
    ------
    ValueError
        If the temperature is not positive and finite, or the weight negative or not finite.
    """

    temperature: float = 1.0
    weight: float = 0.1
    needs: ClassVar[frozenset[str]] = frozenset({"soft_labels", "own_soft_labels", "known_classes"})
    per_sample: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature={self.temperature} must be positive and finite")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"weight={self.weight} must be finite and not negative")

    def initial_state(self) -> State:
        """Return nothing: this loss has no memory."""
        return {}

    def __call__(self, outputs: Outputs, batch: Batch, mask: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the loss of every sample, ``[B]``."""
        known, own = batch["known_classes"], batch["own_soft_labels"]
        learnt = self._divergence(batch["soft_labels"], outputs.logits, torch.ones_like(known))
        kept = self._divergence(own, outputs.logits, known)
        mass = (own * known.to(own.dtype)).sum(1)
        mean = torch.where(mask, mass, 0).sum() / mask.sum().clamp_min(1)
        return learnt + self.weight * mass / mean.clamp_min(SMALLEST_PROBABILITY) * kept, state

    def _divergence(self, soft_labels: Tensor, logits: Tensor, classes: Tensor) -> Tensor:
        """Return T squared times the divergence at the temperature, among these classes only."""
        log_soft_labels = torch.log(soft_labels.clamp_min(SMALLEST_PROBABILITY))
        log_target, log_student = (
            torch.log_softmax(torch.where(classes, values / self.temperature, LEFT_OUT), dim=1)
            for values in (log_soft_labels, logits)
        )
        return self.temperature**2 * (log_target.exp() * (log_target - log_student)).sum(1)
