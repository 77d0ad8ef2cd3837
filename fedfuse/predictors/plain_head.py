"""Answer with the model's own head."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedfuse.models.outputs import Outputs


@dataclass(frozen=True)
class PlainHead:
    """The softmax of the model's logits."""

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return probabilities ``[B, C]``."""
        return torch.softmax(outputs.logits, dim=1)
