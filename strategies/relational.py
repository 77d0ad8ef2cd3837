"""Relational distillation in a federation: beside soft labels, clients share how far apart they see transfer samples.

The relations are those of RKD (Park, Kim, Lu and Cho, CVPR 2019, arXiv 1904.05068), from one teacher's features to a
student's; averaging them over clients is ours.
"""

import torch

from fedfuse.knowledge import Fused, KnowledgeBatch
from fedfuse.server import Server
from fedfuse.strategy import FusionStrategy


class Relational(FusionStrategy):
    """RKD-style: one consensus on soft labels, and one on how far apart the features of transfer samples lie.

    Both are plain means: of the soft labels, and of each pair's relative distance over the clients that answered both
    samples. Distances fit any architecture and any width of features. Clients learn from both at once, by default with
    ``objective=relational``, a sum of kd and rkd. Fusion space: probability. Beside what soft labels tell, the server
    sees the geometry of each client's features: which transfer samples its model takes for alike, also within a class.
    """

    sends = returns = frozenset({"soft_labels", "relations"})

    def fuse(self, knowledge: KnowledgeBatch, server: Server) -> Fused:
        """Average soft labels, and the distance of each pair."""
        fused = super().fuse(knowledge, server)
        related = knowledge.related
        told = related.sum(0)
        mean = torch.where(related, knowledge.relations, 0).sum(0) / told.clamp_min(1)
        # One is the mean of all distances. In a run all are asked for the same samples, so no pair is left untold.
        relations = torch.where(told > 0, mean, 1)
        rows = torch.nonzero(knowledge.relations_mask.any(0)).squeeze(1).to(torch.int32)
        consensus = {"relations": relations, "rows": rows}
        return Fused.for_all(relevance=fused.relevance, relations=consensus, **(fused.common or {}))
