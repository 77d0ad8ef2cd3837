"""Confidence-weighted consensus: an answer counts by its largest probability. The formula is ours."""

import math

import torch
from torch import Tensor

from fedfuse.knowledge import KnowledgeBatch
from fedfuse.strategy import FusionStrategy


class ConfidenceWeighted(FusionStrategy):
    r"""Confidence-weighted: one consensus for all, each answer counting by its largest probability.

    Client n's answer to sample x counts by :math:`(\max_c p_n(x)_c)^s`, with the strength s. Of C classes even an
    unsure answer counts 1 / C of a certain one at strength 1, so that the weights differ less than those of
    `strategies.entropy_weighted`. Nothing tells a client that is sure and right from one that is sure and wrong.
    Fusion space: probability.

    Parameters
    ----------
    strength : float
        s, not negative: 0 is the plain mean, a very large one is the surest answer alone.
    """

    sends = returns = frozenset({"soft_labels"})

    def __init__(self, strength: float = 1.0) -> None:
        if not (math.isfinite(strength) and strength >= 0):
            raise ValueError(f"strength={strength} must be finite and not negative")
        self.strength = strength

    def weigh(self, knowledge: KnowledgeBatch) -> Tensor:
        """Return how much each answer counts, ``[N, M]``, relative to the surest answer to the same sample."""
        confidence = torch.where(knowledge.mask, knowledge.soft_labels.amax(2).double(), 0)
        # Only ratios matter within a sample; relative to the surest answer, large powers do not all vanish.
        surest = confidence.amax(0).clamp_min(torch.finfo(confidence.dtype).tiny)
        return (confidence / surest) ** self.strength
