"""Variance-weighted consensus, of Fed-ET (Cho et al., IJCAI 2022, arXiv 2204.12703)."""

import torch
from torch import Tensor

from fedfuse.knowledge import KnowledgeBatch
from fedfuse.strategy import FusionStrategy


class VarianceWeighted(FusionStrategy):
    r"""Fed-ET-style: one consensus for all, each answer counting by the variance of its class probabilities.

    Client n's answer to sample x counts in proportion to :math:`Var_c(p_n(x)_c)`: peaked answers have a large
    variance, an even one has none and counts nothing. A sample for which all answers are even is not learnt from.
    Fusion space: probability.

    Of the paper we read the abstract; the formula is not checked against it. Unlike there, clients share soft labels
    instead of small models and learn from the consensus themselves: there is no large server model, the target is not
    reduced to its largest class, and the diversity term, which belongs to the loss that learns from it, is left out.
    """

    sends = returns = frozenset({"soft_labels"})

    def weigh(self, knowledge: KnowledgeBatch) -> Tensor:
        """Return how much each answer counts, ``[N, M]``."""
        variance = knowledge.soft_labels.double().var(2, correction=0)
        return torch.where(knowledge.mask, variance, 0)
