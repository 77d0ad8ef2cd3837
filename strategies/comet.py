"""COMET-style: on every sample learn from the clients that answer alike (Cho et al., 2021, arXiv 2109.08119).

Of the paper we read the abstract; clusters on each sample are as others have implemented it. There each client chooses
the nearest centroid. Here the server does, which has the client's answers.
"""

import torch
from torch import Tensor

from fedfuse.knowledge import Fused, KnowledgeBatch
from fedfuse.server import Server
from fedfuse.strategy import FusionStrategy


class COMET(FusionStrategy):
    """COMET-style: cluster the clients on each sample, and send each client the mean of its cluster.

    K-means over the soft labels of one sample, started from the label farthest from their mean, then always the one
    farthest from those chosen. A client that did not answer a sample gets the mean of all who did. Fusion space:
    probability.

    Parameters
    ----------
    clusters : int
        On each sample, 1 or above; one is the plain mean.
    iterations : int
        Of k-means at most, 1 or above; it ends earlier when no client changes its cluster.
    """

    sends = returns = frozenset({"soft_labels"})

    def __init__(self, clusters: int = 2, iterations: int = 10) -> None:
        for name, value in (("clusters", clusters), ("iterations", iterations)):
            if value < 1:
                raise ValueError(f"{name}={value} must be 1 or above")
        self.clusters = clusters
        self.iterations = iterations

    def fuse(self, knowledge: KnowledgeBatch, server: Server) -> Fused:
        """Mix every sample's labels within the clusters."""
        # Clients come last, [M, ..., N]: every sample is a problem of its own.
        answered = knowledge.mask.T.unsqueeze(1)
        labels = knowledge.soft_labels.permute(1, 2, 0).contiguous() * answered
        mean = labels.sum(2, keepdim=True) / answered.sum(2, keepdim=True).clamp_min(1)
        # Less the mean, so that small differences between clients that nearly agree are not lost to rounding.
        members = self._cluster(labels - mean, answered)
        sizes = members.sum(2, keepdim=True)
        everybody = sizes / sizes.sum(1, keepdim=True).clamp_min(1)
        # How much of each member of each cluster a client hears.
        hears = torch.where(answered, members, everybody) / sizes.clamp_min(1)
        soft_labels = hears.mT @ (members @ labels.mT)
        somebody = knowledge.mask.any(0)
        soft_labels[~somebody] = 1 / labels.shape[1]
        relevance = torch.einsum("mkn,mkj->nj", hears, members).double() / somebody.sum().clamp_min(1)
        tensors = {"soft_labels": soft_labels.transpose(0, 1), "mask": somebody.expand(knowledge.mask.shape)}
        return Fused.for_each(knowledge.client_ids, relevance=relevance, soft_labels=tensors)

    def _cluster(self, labels: Tensor, answered: Tensor) -> Tensor:
        """Return which clusters clients are in, 1 or 0, ``[M, clusters, N]``; none where they did not answer."""
        centroids = self._first_centroids(labels, answered)
        members = labels.new_zeros(len(labels), self.clusters, labels.shape[2])
        for _ in range(self.iterations):
            nearest = _closeness(labels, centroids).max(1, keepdim=True).indices
            before, members = members, torch.zeros_like(members).scatter_(1, nearest, answered.to(labels.dtype))
            if torch.equal(members, before):
                break
            # A cluster without members starts again from the mean, which is zero.
            centroids = members @ labels.mT / members.sum(2, keepdim=True).clamp_min(1)
        return members

    def _first_centroids(self, labels: Tensor, answered: Tensor) -> Tensor:
        squares = labels.square().sum(1, keepdim=True)
        chosen, distance = labels.mT[:, :0], squares
        for _ in range(self.clusters):
            farthest = distance.masked_fill(~answered, -1).argmax(2, keepdim=True)
            chosen = torch.cat([chosen, labels.take_along_dim(farthest, dim=2).mT], dim=1)
            distance = squares - 2 * _closeness(labels, chosen).amax(1, keepdim=True)
        return chosen


def _closeness(labels: Tensor, centroids: Tensor) -> Tensor:
    """Return half of a label's own square less half its squared distance from each centroid, ``[M, clusters, N]``."""
    return centroids @ labels - centroids.square().sum(2, keepdim=True) / 2
