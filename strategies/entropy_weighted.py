"""Entropy-weighted consensus: whoever is sure of a sample counts more for it. The formula is ours."""

import math

import torch
from torch import Tensor

from fedfuse.knowledge import KnowledgeBatch
from fedfuse.strategy import FusionStrategy


class EntropyWeighted(FusionStrategy):
    r"""Entropy-weighted: one consensus for all, each answer counting by how far its entropy is from the largest.

    Client n's answer to sample x counts by :math:`(1 - H(p_n(x)) / \log C)^s`, with the entropy H, C classes and the
    strength s. An even answer counts nothing, and a sample for which all answers are even is not learnt from. Nothing
    tells a client that is sure and right from one that is sure and wrong. Fusion space: probability.

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
        # Rounding in a client's answers can leave a probability just below zero, which has no entropy.
        probabilities = knowledge.soft_labels.double().clamp_min(0)
        entropy = torch.special.entr(probabilities).sum(2) / math.log(probabilities.shape[2])
        certainty = torch.where(knowledge.mask, 1 - entropy, 0).clamp_min(0)
        # Only ratios matter within a sample; relative to the surest answer, large powers do not all vanish.
        surest = certainty.amax(0).clamp_min(torch.finfo(certainty.dtype).tiny)
        return (certainty / surest) ** self.strength
