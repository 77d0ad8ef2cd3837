"""Turn features towards prototypes and let them grow (norm and direction, Wang et al., ECCV 2024, arXiv 2305.17007)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedfuse.models.outputs import Outputs
from fedfuse.objectives.objective import Batch, State

# Below this squared norm a vector has no direction: dividing by its norm would only enlarge rounding.
SMALLEST_SQUARE = 1e-24


@dataclass(frozen=True)
class NormDirection:
    r"""Direction of a sample's features from the global prototype of its class, with features too short counting more.

    .. math:: \lambda \left(1 - \frac{s \cdot e_y}{\max(\|s\|, n)}\right)

    s are the sample's features, :math:`e_y` is the prototype of its class at length 1, n the mean norm of the known
    prototypes. Features longer than n are only turned; shorter ones are also lengthened. The sample counts nothing
    where nobody has a prototype of its class.

    ND-style with prototypes: in the paper a teacher's mean features of a class give the direction, and its features of
    the very sample the norm; a network between brings the student's features to the teacher's width. Prototypes know
    nothing of single samples, and all clients here have features of one width.

    Parameters
    ----------
    weight : float
        The factor lambda against the loss on labels, not negative.

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
        """Return the weighted loss of every sample, ``[B]``."""
        known, features = batch["prototype_mask"], outputs.features
        prototypes = torch.where(known.unsqueeze(1), batch["prototypes"], 0)
        norms = torch.linalg.vector_norm(prototypes, dim=1)
        mean_norm = norms.sum() / known.sum().clamp_min(1)
        directions = prototypes / norms.clamp_min(math.sqrt(SMALLEST_SQUARE)).unsqueeze(1)
        # The larger of the squares before the root: a root of features that are zero has no gradient.
        square = torch.maximum(features.square().sum(1), mean_norm.square()).clamp_min(SMALLEST_SQUARE)
        along = (features * directions[batch["labels"]]).sum(1) / square.sqrt()
        return self.weight * torch.where(known[batch["labels"]], 1 - along, 0), state
