"""Cross-entropy of the head alone on generated features (FedGen, Zhu, Hong and Zhou, ICML 2021)."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from fedfuse.models.outputs import Outputs
from fedfuse.objectives.objective import Batch, State


@dataclass(frozen=True)
class Generated:
    """Cross-entropy between what the head answers to generated features and the labels they were generated for.

    Parameters
    ----------
    weight : float
        The factor alpha against the loss on private data, not negative.

    Raises
    ------
    ValueError
        If the weight is negative or not finite.
    """

    weight: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset({"labels", "generated"})
    per_sample: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"weight={self.weight} must be finite and not negative")

    @property
    def at_head(self) -> "Generated":
        """Return this loss: it knows nothing but the head."""
        return self

    def initial_state(self) -> State:
        """Return nothing: this loss has no memory."""
        return {}

    def __call__(self, outputs: Outputs, batch: Batch, mask: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the weighted cross-entropy of every generated sample, ``[B]``."""
        return self.weight * functional.cross_entropy(outputs.logits, batch["labels"], reduction="none"), state
