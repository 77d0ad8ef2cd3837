"""Supervised cross-entropy on the client's own labels."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from fedfuse.models.outputs import Outputs
from fedfuse.objectives.objective import Batch, State


@dataclass(frozen=True)
class CrossEntropy:
    """Supervised cross-entropy between the logits and integer labels."""

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    per_sample: ClassVar[bool] = True

    def initial_state(self) -> State:
        """Return nothing: this loss has no memory."""
        return {}

    def __call__(self, outputs: Outputs, batch: Batch, mask: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the cross-entropy of every sample, ``[B]``."""
        return functional.cross_entropy(outputs.logits, batch["labels"], reduction="none"), state
