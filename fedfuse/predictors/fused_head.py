"""Answer with the second head, which learns from fused knowledge."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedfuse.models.outputs import Outputs
from fedfuse.predictors.predictor import FUSED_HEAD, Answer, Own


@dataclass(frozen=True)
class FusedHead:
    """The softmax of the logits of the model's second head, which learns from fused knowledge alone."""

    needs: ClassVar[frozenset[str]] = frozenset({FUSED_HEAD})
    tells_labels: ClassVar[bool] = False

    def fit(self, own: Own) -> Answer:
        """Return `answer`: nothing of the client's own matters."""
        return answer


def answer(outputs: Outputs, inputs: Tensor) -> Tensor:
    """Return probabilities ``[B, C]``."""
    return torch.softmax(fused_logits(outputs), dim=1)


def fused_logits(outputs: Outputs) -> Tensor:
    """Return what the second head says, ``[B, C]``."""
    assert outputs.fused_logits is not None, "a predictor that needs a fused head is given a model with one"
    return outputs.fused_logits
