"""Variance-weighted consensus, of Fed-ET (Cho et al., IJCAI 2022, arXiv 2204.12703)."""

import math

import torch
from torch import Tensor

from fedfuse.fusion import mix
from fedfuse.knowledge import Fused, KnowledgeBatch
from fedfuse.server import Server
from fedfuse.strategy import FusionStrategy


class VarianceWeighted(FusionStrategy):
    r"""Fed-ET-style: one consensus for all, each answer counting by the variance of its class probabilities.

    Client n's answer to sample x counts in proportion to :math:`a_n(x) = Var_c(p_n(x)_c)`: peaked answers have a large
    variance, an even one has none and counts nothing. A sample for which all answers are even is not learnt from.
    Fusion space: probability, for the diversity logit.

    Fed-ET lets the clients whose class is not the consensus's teach too: its loss has a second term,
    :math:`\lambda` times the divergence from :math:`d(x) = softmax(\sum_n a_n \log p_n / \sum_n a_n)` over those
    clients. As the gradient of a divergence is linear in its target, the two terms are one, whose target is

    .. math:: q(x) = \frac{\bar p(x) + \lambda\, d(x)}{1 + \lambda}

    with the consensus :math:`\bar p`; where nobody disagrees, :math:`q = \bar p`.

    Of the paper we read the abstract; the formulas are not checked against it. Unlike there, clients share soft labels
    instead of small models and learn from the consensus themselves: there is no large server model, and the target is
    not reduced to its largest class. Off by default, the paper's :math:`\lambda` being unknown to us.

    Parameters
    ----------
    diversity : float
        :math:`\lambda`, not negative: 0 leaves the clients that disagree to the consensus.
    """

    sends = returns = frozenset({"soft_labels"})

    def __init__(self, diversity: float = 0.0) -> None:
        if not (math.isfinite(diversity) and diversity >= 0):
            raise ValueError(f"diversity={diversity} must be finite and not negative")
        self.diversity = diversity

    def weigh(self, knowledge: KnowledgeBatch) -> Tensor:
        """Return how much each answer counts, ``[N, M]``."""
        variance = knowledge.soft_labels.double().var(2, correction=0)
        return torch.where(knowledge.mask, variance, 0)

    def fuse(self, knowledge: KnowledgeBatch, server: Server) -> Fused:
        """Mix the answers, and add what those that disagree with the mixture say."""
        fused = super().fuse(knowledge, server)
        if not self.diversity:
            return fused
        assert fused.common is not None, "without relate, all clients get the same"
        consensus, mask = (fused.common["soft_labels"][name] for name in ("soft_labels", "mask"))
        disagree = knowledge.mask & (knowledge.soft_labels.argmax(2) != consensus.argmax(1))
        everybody = torch.ones(1, len(knowledge))
        others, heard = mix(knowledge.soft_labels, disagree, everybody, self.weigh(knowledge), "logit")
        diverse = (consensus + self.diversity * others[0]) / (1 + self.diversity)
        target = torch.where(heard[0].unsqueeze(1), diverse, consensus)
        return Fused.for_all(fused.relevance, soft_labels={"soft_labels": target, "mask": mask})
