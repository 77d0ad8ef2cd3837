"""Coordinate median: a consensus that a minority cannot move far, class by class."""

import numpy as np
import torch

from fedfuse.knowledge import Fused, KnowledgeBatch
from fedfuse.server import Server
from fedfuse.strategy import FusionStrategy


class CoordinateMedian(FusionStrategy):
    """Coordinate median: one consensus for all, the median of the clients' answers in each class, renormalised.

    The classical robust mean, here for soft labels; of an even number of answers the middle two are averaged. Fusion
    space: probability. Breakdown point: one half. As long as fewer than half of those who answered are hostile, each
    median lies between two honest answers. Where every median is zero, hard labels without a majority, nothing is
    learnt from the sample.
    """

    sends = returns = frozenset({"soft_labels"})

    def fuse(self, knowledge: KnowledgeBatch, server: Server) -> Fused:
        """Take the median of every class on every transfer sample."""
        answers = knowledge.soft_labels.where(knowledge.mask.unsqueeze(2), torch.inf)
        # PyTorch sorts more than ten times as slowly.
        ascending = torch.from_numpy(np.sort(answers.numpy(), axis=0))
        answered = knowledge.mask.sum(0).view(1, -1, 1)
        lower = ascending.take_along_dim((answered - 1).clamp_min(0) // 2, 0)[0]
        upper = ascending.take_along_dim(answered // 2, 0)[0]
        median = ((lower + upper) / 2).clamp_min(0).where(answered[0] > 0, 0)
        total = median.sum(1, keepdim=True)
        agreed = total >= torch.finfo(total.dtype).tiny
        soft_labels = (median / total).where(agreed, 1 / median.shape[1])
        return Fused.for_all(soft_labels={"soft_labels": soft_labels, "mask": agreed.squeeze(1)})
