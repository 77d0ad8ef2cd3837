"""DS-FL: average soft labels, then sharpen (Itahara et al., IEEE TMC 2021, arXiv 2008.06180)."""

import math

from torch import softmax

from fedfuse.knowledge import Fused, KnowledgeBatch
from fedfuse.server import Server
from fedfuse.strategy import FusionStrategy


class DSFL(FusionStrategy):
    r"""DS-FL: one consensus for all, the mean of the soft labels made decisive by a temperature.

    Entropy reduction aggregation (ERA): :math:`q = softmax(\bar p / T)`, with the mean :math:`\bar p` of the soft
    labels. Fusion space: probability; the authors' "logits" are softmax outputs. The order of the classes stays. Even
    at a temperature of 1 it is not the mean, and it does not always sharpen: with C classes a nearly even mean
    becomes flatter where T is above 1 / C, and a certain one at any T, because no two classes can differ by a factor
    above exp(1 / T). `strategies.enhanced_era` has neither property.

    We read the rule in later implementations by others, not in the paper. Unlike there, there is no server model, and
    every sample of the transfer set is answered in every round, unless ``transfer/policy=random_subset`` draws a part.

    Parameters
    ----------
    temperature : float
        T, positive: the lower, the more decisive is the consensus.
    """

    sends = returns = frozenset({"soft_labels"})

    def __init__(self, temperature: float = 0.1) -> None:
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"temperature={temperature} must be finite and positive")
        self.temperature = temperature

    def fuse(self, knowledge: KnowledgeBatch, server: Server) -> Fused:
        """Average the soft labels of those who answered, and sharpen the mean."""
        averaged = super().fuse(knowledge, server)
        assert averaged.common is not None, "without relate, all clients get the same"
        mean, mask = (averaged.common["soft_labels"][name] for name in ("soft_labels", "mask"))
        sharpened = softmax(mean.double() / self.temperature, dim=1).to(mean.dtype)
        return Fused.for_all(averaged.relevance, soft_labels={"soft_labels": sharpened, "mask": mask})
