"""How a client answers, seen from those who ask."""

from typing import Protocol

from torch import Tensor

from fedfuse.models.outputs import Outputs


class Predictor(Protocol):
    """Turn a model's outputs into class probabilities.

    A client has three: ``share`` (what it expresses to others), ``personal`` (what its owner uses) and ``general``
    (what an unseen population would use).
    """

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return probabilities ``[B, C]``, rows summing to one."""
        ...
