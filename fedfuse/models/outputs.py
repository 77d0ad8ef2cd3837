"""What every model returns."""

from typing import NamedTuple

from torch import Tensor


class Outputs(NamedTuple):
    """The outputs of a model for a batch.

    Attributes
    ----------
    logits : Tensor
        ``[batch, classes]``, before any softmax.
    features : Tensor
        ``[batch, embedding_size]``, what the head computes the logits from.
    fused_logits : Tensor or None
        ``[batch, classes]``, of a model with a second head, which learns from fused knowledge.
    """

    logits: Tensor
    features: Tensor
    fused_logits: Tensor | None = None
