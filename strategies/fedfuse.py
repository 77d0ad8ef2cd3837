"""fedfuse: one consensus of those who know, and clients that are good on their own data and on everybody's."""

import math

from torch import Tensor

from fedfuse.knowledge import KnowledgeBatch
from fedfuse.strategy import FusionStrategy


class FedFuse(FusionStrategy):
    r"""FedFuse: one consensus of clients that answer evenly what is unlike their own data, and so count little there.

    .. math:: q(x) = \frac{\sum_n v_n(x)^\gamma\, p_n(x)}{\sum_n v_n(x)^\gamma}, \qquad
              v_n(x) = \frac{1}{C} \sum_c \left(p_{nc}(x) - \frac{1}{C}\right)^2

    Variance weights are Fed-ET's (Cho et al., IJCAI 2022, equation 3), there with a power of 1, of answers that are as
    sure as a model is. Here a client flattens its answers to samples that are unlike its own (predictor ``familiar``),
    so that the variance tells who knows: the idea of density weights (Kovalchuk et al., 2026), with soft labels alone.

    The other half is the clients' part, chosen in ``configs/strategy/fedfuse.yaml``: they learn from their own labels
    and from the fused ones at once (``rehearse``), so that neither is forgotten, and answer their owners with the
    consensus as they learnt it, corrected by their own label mix, which never leaves them (predictor
    ``prior_corrected``).

    Fusion space: probability. A sample that all answer evenly is not learnt from, whatever the sharpness; on any other
    a sharpness of 0 counts even answers like the rest. Answers count against the largest variance on their sample, so
    how flat all of them are does not matter. A client that is sure of every sample, knowing it or not, is heard
    everywhere: nothing here tells such a client from those who know. The soft labels tell the server which transfer
    samples resemble a client's data; protectors of soft labels cover all that is sent.

    Parameters
    ----------
    sharpness : float
        gamma, at least 0: 0 is the plain mean, higher listens more to those who are surest of a sample.
    rehearse : float
        The share of the loss that ``learn.rehearse`` and ``absorb.rehearse`` have, unless they are set by themselves;
        the clients' part, 0.3 in fedfuse's own file.
    """

    sends = returns = frozenset({"soft_labels"})

    def __init__(self, sharpness: float = 4.0, rehearse: float = 0.0) -> None:
        if not (math.isfinite(sharpness) and sharpness >= 0):
            raise ValueError(f"sharpness={sharpness} must be finite and not negative")
        self.sharpness = sharpness
        self.rehearse = rehearse

    def weigh(self, knowledge: KnowledgeBatch) -> Tensor:
        """Return how much each answer counts, ``[N, M]``: its variance against the largest one, to the power."""
        variance = knowledge.soft_labels.double().var(2, correction=0) * knowledge.mask
        largest = variance.amax(0)
        relative = variance / largest.clamp_min(1e-300)
        return relative**self.sharpness * (knowledge.mask & (largest > 0))
