"""Dynamic logits fusion: a step of the consensus as long as the clients' own (NeurIPS 2024, arXiv 2406.15480).

There, what small tuned language models differ by from their base is added to the logits of a large one, and the weights
are chosen so that the large one moves as far, in both directions of the Kullback-Leibler divergence, as the small ones
did. We read the equations in a copy that seems paraphrased in part.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fedfuse.fusion import SMALLEST_PROBABILITY
from fedfuse.knowledge import Fused, KnowledgeBatch
from fedfuse.server import Server
from fedfuse.strategy import FusionStrategy

# Of the grid from 0 to 2; at 0 nothing moves.
WEIGHTS = tuple(step / 10 for step in range(1, 21))


class DynamicLogits(FusionStrategy):
    r"""Dynamic-logits-style: one consensus for all, moved from the previous one as far as the clients moved.

    Before a client trains it agrees more or less with the previous consensus P, which therefore stands for the base of
    both the clients and the server; at first it is uniform. With the clients' answers :math:`p_n` after training,

    .. math:: q = softmax\left(\log P + \alpha\, mean_n(\log p_n - \log P)\right)

    and for each sample the :math:`\alpha` of 0, 0.1, ... 2 with the least
    :math:`\sum_n (KL(q \| P) - KL(p_n \| P))^2 + (KL(P \| q) - KL(P \| p_n))^2`. At 1 it is the mean of logits (FedMD);
    above, it makes up for what clients that disagree cancel of each other's steps. One weight for all clients is our
    choice: alone, each would get a weight of 1. Fusion space: logit.
    """

    sends = returns = frozenset({"soft_labels"})

    def __init__(self) -> None:
        self.consensus: Tensor | None = None  # float64 [M, C]

    def fuse(self, knowledge: KnowledgeBatch, server: Server) -> Fused:
        """Move the consensus on each sample that somebody answered."""
        number, _, num_classes = knowledge.soft_labels.shape
        mask = knowledge.mask
        soft_labels = knowledge.soft_labels.where(mask.unsqueeze(2), 1 / num_classes)
        if self.consensus is None:
            self.consensus = torch.full_like(soft_labels[0], 1 / num_classes, dtype=torch.float64)
        logits = soft_labels.clamp_min(SMALLEST_PROBABILITY).log_()
        heard = mask.double() / mask.sum(0).clamp_min(1)
        mean_label = _mean(soft_labels, heard)
        mean_logit = _mean(logits, heard)
        mean_entropy = -_mean((soft_labels * logits).sum(2, keepdim=True), heard).squeeze(1)

        # The objective depends on the clients' divergences only by their means over the clients.
        base = self.consensus.clamp_min(SMALLEST_PROBABILITY).log()
        forward = -mean_entropy - (mean_label * base).sum(1)
        backward = (self.consensus * (base - mean_logit)).sum(1)
        best = self.consensus
        least = forward.square() + backward.square()
        for weight in WEIGHTS:
            moved = torch.log_softmax(base + weight * (mean_logit - base), dim=1)
            probability = moved.exp()
            error = ((probability * (moved - base)).sum(1) - forward).square()
            error += ((self.consensus * (base - moved)).sum(1) - backward).square()
            better = mask.any(0) & (error < least)
            best = torch.where(better.unsqueeze(1), probability, best)
            least = torch.where(better, error, least)
        self.consensus = best

        relevance = (mask.double().sum(1) / mask.sum().clamp_min(1)).expand(number, number)
        tensors = {"soft_labels": best.to(soft_labels.dtype), "mask": mask.any(0)}
        return Fused.for_all(relevance, soft_labels=tensors)

    def state_dict(self) -> dict[str, Any]:
        """Return the last consensus on each sample."""
        return {"consensus": self.consensus}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.consensus = state["consensus"]


def _mean(values: Tensor, heard: Tensor) -> Tensor:
    """Average ``[N, M, ...]`` over the clients that answered each sample, float64."""
    return torch.einsum("nmc,nm->mc", values, heard.to(values.dtype)).double()
