"""Geometric median: the consensus with the least sum of distances to the clients' answers."""

from torch import Tensor

from fedfuse.knowledge import KnowledgeBatch
from fedfuse.strategy import FusionStrategy


class GeometricMedian(FusionStrategy):
    r"""Geometric median: one consensus for all, the point nearest to all answers on a transfer sample together.

    A minimiser of :math:`\sum_n \|q - p_n\|`, found by Weiszfeld's iteration: start from the mean, then weigh each
    answer by one over its distance from the last estimate, which is at least ``smoothing`` here. The distances are
    over the classes of one sample, so a client may be heard on one sample and not on another. Fusion space:
    probability. Breakdown point: one half, in the limit of many iterations; the nearer to it, the more are needed.

    Parameters
    ----------
    iterations : int
        Steps of the iteration, not negative; 0 is the plain mean.
    smoothing : float
        The smallest distance that counts, positive. Nearer than that, answers are averaged as they are.
    """

    sends = returns = frozenset({"soft_labels"})

    def __init__(self, iterations: int = 15, smoothing: float = 1e-3) -> None:
        if iterations < 0:
            raise ValueError(f"iterations={iterations} must not be negative")
        if not 0 < smoothing <= 1:
            raise ValueError(f"smoothing={smoothing} must be above 0 and at most 1")
        self.iterations = iterations
        self.smoothing = smoothing

    def weigh(self, knowledge: KnowledgeBatch) -> Tensor:
        """Return how near each answer is to the consensus, ``[N, M]``; the weights of a sample sum to one."""
        answers = knowledge.soft_labels.transpose(0, 1).contiguous()
        mask = knowledge.mask.T.to(answers.dtype).contiguous()
        weights = mask / mask.sum(1, keepdim=True).clamp_min(1)
        for _ in range(self.iterations):
            consensus = weights.unsqueeze(1) @ answers
            distance = (answers - consensus).norm(dim=2)
            nearness = mask / distance.clamp_min(self.smoothing)
            weights = nearness / nearness.sum(1, keepdim=True).clamp_min(self.smoothing)
        return weights.T
