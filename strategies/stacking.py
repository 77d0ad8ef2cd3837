"""Stacking: learn from labels how much each client counts (Breiman, 1996; as in Borup and Andersen, NeurIPS 2021)."""

import math

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fedfuse.fusion import mix
from fedfuse.knowledge import Fused, KnowledgeBatch
from fedfuse.server import Server
from fedfuse.strategy import FusionStrategy

STEPS = 300


class Stacking(FusionStrategy):
    r"""Stacking: one consensus, the mixture of clients that fits the labels of some transfer samples best.

    .. math:: w = \arg\min_{w \in \Delta} \frac{1}{L} \sum_{x} \left\| \sum_n w_n p_n(x) - y(x) \right\|^2
              + \lambda \left\| w - 1/N \right\|^2

    over the simplex, on those of the L labelled samples that somebody answered. It is fitted afresh in every round, by
    300 steps of projected gradient with Nesterov's momentum. Where a client did not answer a labelled
    sample, the mean of those who did stands in for it. Run it with ``transfer.labelled=100``. The objective is that of
    least-squares stacking; the pull to the mean and the solver are ours. Fusion space: probability.

    Parameters
    ----------
    regularisation : float
        :math:`\lambda`, above 0: how strongly the weights are held near ``1 / N``. A large one is the plain mean.
    """

    sends = returns = frozenset({"soft_labels"})
    needs_labels = True
    caution = "Learns from labels at the server: compare it with a model that is trained on those samples alone."

    def __init__(self, regularisation: float = 0.01) -> None:
        if not (math.isfinite(regularisation) and regularisation > 0):
            raise ValueError(f"regularisation={regularisation} must be finite and above 0")
        self.regularisation = regularisation

    def fuse(self, knowledge: KnowledgeBatch, server: Server) -> Fused:
        """Fit the weights on the labelled samples and mix by them on all."""
        weights = self.fit(knowledge, server).unsqueeze(0)
        mixed, answered = mix(knowledge.soft_labels, knowledge.mask, weights, space=self.space)
        return Fused.for_all(
            relevance=weights.expand(len(knowledge), -1),
            soft_labels={"soft_labels": mixed[0], "mask": answered[0]},
        )

    def fit(self, knowledge: KnowledgeBatch, server: Server) -> Tensor:
        """Return the weight of each client, float64 ``[N]``, on the simplex."""
        if server.labels is None:
            raise ValueError("stacking learns from labels: set transfer.labelled")
        rows = slice(len(server.labels))
        mask = knowledge.mask[:, rows].unsqueeze(2)
        answers = torch.where(mask, knowledge.soft_labels[:, rows], 0).double()
        mean = answers.sum(0) / mask.sum(0).clamp_min(1)
        labels = one_hot(server.labels, answers.shape[2]).double()
        known = mask.any(0)
        # In terms of u = w - 1/N: how far the mean is off, and what each client's own opinion adds to it.
        off = torch.where(known, mean - labels, 0).flatten()
        opinions = torch.where(mask, answers - mean, 0).flatten(1)
        total = known.sum().clamp_min(1)
        slope = opinions @ off / total
        curvature = opinions @ opinions.T / total
        curvature.diagonal().add_(self.regularisation)

        number = len(slope)
        least, most = torch.linalg.eigvalsh(curvature)[[0, -1]].tolist()
        momentum = (math.sqrt(most) - math.sqrt(least)) / (math.sqrt(most) + math.sqrt(least))
        weights = ahead = slope.new_full((number,), 1 / number)
        for _ in range(STEPS):
            previous = weights
            weights = to_simplex(ahead - (curvature @ (ahead - 1 / number) + slope) / most)
            ahead = weights + momentum * (weights - previous)
        return weights


def to_simplex(vector: Tensor) -> Tensor:
    """Return the nearest point of the simplex (Duchi et al., 2008, algorithm 1) to a vector ``[N]``."""
    descending = vector.sort(descending=True).values
    thresholds = (descending.cumsum(0) - 1) / torch.arange(1, len(vector) + 1)
    kept = int((descending > thresholds).sum())
    return (vector - thresholds[kept - 1]).clamp_min(0)
