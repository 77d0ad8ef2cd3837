"""Pull features towards the global prototype of their class (FedProto, Tan et al., AAAI 2022)."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedfuse.models.outputs import Outputs
from fedfuse.objectives.objective import Batch, State


@dataclass(frozen=True)
class Prototype:
    """Squared distance of a sample's features from the global prototype of its class, mean over the features.

    The sample counts nothing where nobody has a prototype of its class.

    Parameters
    ----------
    weight : float
        The factor lambda in FedProto's loss ``cross-entropy + lambda * MSE``, not negative.

    Raises
    ------
    ValueError
        If the weight is negative or not finite.
    """

    weight: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset({"labels", "prototypes"})
    per_sample: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"weight={self.weight} must be finite and not negative")

    def initial_state(self) -> State:
        """Return nothing: this loss has no memory."""
        return {}

    def __call__(self, outputs: Outputs, batch: Batch, mask: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the weighted squared distance of every sample, ``[B]``."""
        target = batch["prototypes"][batch["labels"]]
        known = batch["prototype_mask"][batch["labels"]]
        distance = (outputs.features - target).square().mean(1)
        return self.weight * distance * known.to(distance.dtype), state
