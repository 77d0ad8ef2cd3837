"""Answer a sample like the others answer its class on average (federated distillation, Jeong et al., 2018)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedfuse.models.outputs import Outputs
from fedfuse.objectives.objective import Batch, State


@dataclass(frozen=True)
class ClassLogits:
    r"""Divergence of a sample's answer from the mean answer of others to its class.

    .. math:: \gamma\, KL\left(softmax(\bar z_y) \,\|\, softmax(z)\right)

    The received logits go through a softmax first: as they are, they would be no target for a cross-entropy. The sample
    counts nothing where nobody else has its class.

    Parameters
    ----------
    weight : float
        The factor gamma against the loss on labels, not negative.

    Raises
    ------
    ValueError
        If the weight is negative or not finite.
    """

    weight: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset({"labels", "class_logits"})
    per_sample: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"weight={self.weight} must be finite and not negative")

    def initial_state(self) -> State:
        """Return nothing: this loss has no memory."""
        return {}

    def __call__(self, outputs: Outputs, batch: Batch, mask: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the weighted divergence of every sample, ``[B]``."""
        log_target = torch.log_softmax(batch["class_logits"][batch["labels"]], dim=1)
        known = batch["class_logits_mask"][batch["labels"]]
        log_student = torch.log_softmax(outputs.logits, dim=1)
        divergence = (log_target.exp() * (log_target - log_student)).sum(1)
        return self.weight * divergence * known.to(divergence.dtype), state
