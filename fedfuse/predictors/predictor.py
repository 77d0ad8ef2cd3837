"""How a client answers, seen from those who ask."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from fedfuse.knowledge import Tensors
from fedfuse.models.outputs import Outputs

# From what the model makes of B samples and the samples themselves, [B, *shape], to probabilities [B, C].
Answer = Callable[[Outputs, Tensor], Tensor]
# What a predictor can ask for: a second head in every model, or something of the client's own.
FUSED_HEAD, TRAINING_OUTPUTS, VALIDATION_OUTPUTS = "fused_head", "training_outputs", "validation_outputs"
DENSITY = "density"


@dataclass(frozen=True)
class Own:
    """What a client knows of itself, which decides how it answers and never leaves it.

    Parameters
    ----------
    num_classes : int
        C.
    labels : Tensor
        Of its n training samples, int64 ``[n]``.
    outputs : Outputs or None
        What its model makes of them, where the predictor needs ``training_outputs``.
    validation_labels : Tensor
        Of its v validation samples, int64 ``[v]``.
    validation : Outputs or None
        What its model makes of them, where the predictor needs ``validation_outputs``.
    density : Callable or None
        The log-density of its training data at samples ``[B, *shape]``, where the predictor needs ``density``.
    own_densities : Tensor
        That of its training samples, each given the others, ascending; empty for fewer than two.
    received : Tensors
        The prototypes that it received last: ``prototypes`` ``[C, D]`` and ``mask`` ``[C]``; empty without any.
    """

    num_classes: int
    labels: Tensor
    validation_labels: Tensor
    outputs: Outputs | None = None
    validation: Outputs | None = None
    density: Callable[[Tensor], Tensor] | None = None
    own_densities: Tensor = field(default_factory=lambda: torch.empty(0))
    received: Tensors = field(default_factory=dict)


class Predictor(Protocol):
    """Turn a model's outputs into class probabilities, after a look at what the client knows of itself.

    A client has three: ``share`` (what it expresses to others), ``personal`` (what its owner uses) and ``general``
    (what an unseen population would use).

    Attributes
    ----------
    needs : frozenset[str]
        Of ``fused_head``, ``training_outputs``, ``validation_outputs`` and ``density``.
    tells_labels : bool
        Whether its answers tell which classes the client has, or how often: then it is not for sharing.
    """

    @property
    def needs(self) -> frozenset[str]:
        """Return what must be there."""
        ...

    @property
    def tells_labels(self) -> bool:
        """Return whether its answers are for the client alone."""
        ...

    def fit(self, own: Own) -> Answer:
        """Return the client's way to answer B samples, with rows that sum to one."""
        ...
