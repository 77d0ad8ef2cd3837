"""Cronus-style fusion: a robust mean of soft labels by a spectral filter (Chang et al., 2019, arXiv 1912.11279)."""

import torch
from torch import Tensor

from fedfuse.knowledge import KnowledgeBatch
from fedfuse.strategy import FusionStrategy


class Cronus(FusionStrategy):
    r"""Cronus-style: one consensus for all, a robust mean that filters outliers out of every transfer sample.

    Of the paper we read the abstract; the filter is the known one of Diakonikolas et al. While the weighted covariance
    of the answers has an eigenvalue above ``variance``, each answer is projected on that direction and loses weight
    in proportion to its squared distance from the mean, the farthest all of it:
    :math:`c_n \leftarrow c_n (1 - \tau_n / \tau_{max})`, at most 2 ``outliers`` n times for n answers. Ours: the value
    of ``variance``, and that a step which leaves less than 1 - 2 ``outliers`` of the weight is not taken, because no
    minority is then the cause. Clients train on the answers by the configured objective, after their private data.
    Fusion space: probability. Breakdown point: ``outliers``, where honest clients differ by less than ``variance``.

    Parameters
    ----------
    outliers : float
        The share of hostile clients that is withstood, at least 0 (the plain mean) and below 0.5.
    variance : float
        How far honest clients may differ in any direction, not negative: the largest variance left as it is.
    """

    sends = returns = frozenset({"soft_labels"})

    def __init__(self, outliers: float = 0.2, variance: float = 0.01) -> None:
        if not 0 <= outliers < 0.5:
            raise ValueError(f"outliers={outliers} must be at least 0 and below 0.5")
        if not 0 <= variance < float("inf"):
            raise ValueError(f"variance={variance} must be finite and not negative")
        self.outliers = outliers
        self.variance = variance

    def weigh(self, knowledge: KnowledgeBatch) -> Tensor:
        """Return what the filter leaves of each answer's weight, ``[N, M]``, between 0 and 1."""
        weights = knowledge.mask.T.double()
        answered = weights.sum(1)
        steps = (2 * self.outliers * answered).floor()
        least = (1 - 2 * self.outliers) * answered * (1 - 1e-9)
        # Of the samples that are still filtered: which they are, the answers, and what is left of their weight.
        going = torch.arange(len(weights))
        answers, left = knowledge.soft_labels.double().transpose(0, 1).contiguous(), weights
        for step in range(int(steps.max())):
            share = left / left.sum(1, keepdim=True)
            mean = share.unsqueeze(1) @ answers
            covariance = answers.transpose(1, 2) @ (share.unsqueeze(2) * answers) - mean.transpose(1, 2) @ mean
            # No eigenvalue is above this norm, which is much cheaper.
            spread = (torch.linalg.matrix_norm(covariance) > self.variance) & (step < steps[going])
            if not spread.all():
                going, answers, left, mean = going[spread], answers[spread], left[spread], mean[spread]
            variances, directions = torch.linalg.eigh(covariance[spread])
            direction = directions[:, :, -1:]
            squares = (answers @ direction - mean @ direction).squeeze(2).square()
            farthest = squares.where(left > 0, 0).amax(1, keepdim=True).clamp_min(torch.finfo(left.dtype).tiny)
            filtered = left * (1 - squares / farthest).clamp_min(0)
            spread = (variances[:, -1] > self.variance) & (filtered.sum(1) >= least[going])
            going, answers, left = going[spread], answers[spread], filtered[spread]
            weights[going] = left
        return weights.T
