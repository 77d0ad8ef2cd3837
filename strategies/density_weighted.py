"""Density-weighted consensus: whoever's data make a sample likely counts more for it (UWA-style).

After Kovalchuk et al., "Who to Trust? Aggregating Client Predictions in Federated Distillation", 2026, of which we read
the abstract: it weighs by densities, sample by sample. The formula, and how the densities are estimated (see
`fedfuse.carriers.densities`), are ours.
"""

import math

import torch
from torch import Tensor

from fedfuse.knowledge import KnowledgeBatch
from fedfuse.strategy import FusionStrategy


class DensityWeighted(FusionStrategy):
    r"""Density-weighted: one consensus for all, each answer counting by how likely its client's data make the sample.

    Beside its soft labels, client n sends the log-density :math:`l_n(x)` of every transfer sample under its own
    training data, and

    .. math:: q(x) = \sum_n w_n(x)\, p_n(x), \qquad w_n(x) = softmax_n\left(l_n(x) / \tau\right)

    Equal densities give the mean. Fusion space: probability. The densities tell the server which transfer samples
    resemble a client's data, and no protector covers them.

    Parameters
    ----------
    temperature : float
        Tau, positive: a very small one is the client with the largest density alone, a very large one the plain mean.
    """

    sends = frozenset({"soft_labels", "densities"})
    returns = frozenset({"soft_labels"})

    def __init__(self, temperature: float = 1.0) -> None:
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"temperature={temperature} must be finite and positive")
        self.temperature = temperature

    def weigh(self, knowledge: KnowledgeBatch) -> Tensor:
        """Return how much each answer counts, ``[N, M]``; of those who answered a sample, all together one."""
        densities = knowledge.densities.double()
        # The lowest number, not minus infinity: where nobody answered, a softmax of infinities would be no number.
        answered = densities.masked_fill(~knowledge.mask, torch.finfo(densities.dtype).min)
        relative = (answered - answered.amax(0)) / self.temperature
        return torch.softmax(relative, dim=0) * knowledge.mask
