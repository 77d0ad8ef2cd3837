"""Enhanced ERA: average soft labels, then raise to a power (SCARLET, Azuma et al., 2025, arXiv 2504.19602)."""

import math

from torch import softmax

from fedfuse.knowledge import Fused, KnowledgeBatch
from fedfuse.server import Server
from fedfuse.strategy import FusionStrategy


class EnhancedERA(FusionStrategy):
    r"""Enhanced ERA: one consensus for all, the mean of the soft labels sharpened by a power.

    :math:`q \propto \bar p^{\,\beta}`, with the mean :math:`\bar p` of the soft labels. At an exponent of 1 it is the
    mean; above, the entropy falls and the order of the classes stays, for any number of classes. Fusion space:
    probability.

    This is the aggregation of SCARLET, as its authors' code has it, without the cache: there, soft labels are kept
    for some rounds and not sent again. There is no server model either.

    Parameters
    ----------
    exponent : float
        Beta, positive: above 1 sharpens, below 1 flattens.
    """

    sends = returns = frozenset({"soft_labels"})

    def __init__(self, exponent: float = 2.0) -> None:
        if not (math.isfinite(exponent) and exponent > 0):
            raise ValueError(f"exponent={exponent} must be finite and positive")
        self.exponent = exponent

    def fuse(self, knowledge: KnowledgeBatch, server: Server) -> Fused:
        """Average the soft labels of those who answered, and sharpen the mean."""
        averaged = super().fuse(knowledge, server)
        assert averaged.common is not None, "without relate, all clients get the same"
        mean, mask = (averaged.common["soft_labels"][name] for name in ("soft_labels", "mask"))
        # Rounding in a client's answers can leave a mean just below zero, which has no logarithm.
        logarithm = mean.double().clamp_min(0).log()
        sharpened = softmax(self.exponent * logarithm, dim=1).to(mean.dtype)
        return Fused.for_all(averaged.relevance, soft_labels={"soft_labels": sharpened, "mask": mask})
