"""ORACLE: what KnFu-style fusion would do if it knew each client's true label distribution. For ablations only."""

import math

from torch import Tensor, softmax

from fedfuse.fusion import pairwise_divergence
from fedfuse.knowledge import KnowledgeBatch
from fedfuse.strategy import FusionStrategy

DIVERGENCES = ("kl", "js", "l2")


class Oracle(FusionStrategy):
    r"""ORACLE: sees private label counts; fuses like KnFu by the true label distributions, for ablations only.

    Client n listens to client m in proportion to :math:`\exp(-\beta\, D(h_n \| h_m))`, with the distribution h of the
    labels that a client trains on. Against `knfu`, which estimates it from soft labels, it shows what a better estimate
    would be worth; it is no method that anybody could use. Fusion space: probability. Clients tell their counts only if
    ``share_facts`` names ``label_counts``, which by default it does not.

    Parameters
    ----------
    beta : float
        How strictly neighbours are chosen, not negative: 0 is the plain mean, a very large one is the client alone.
    divergence : str
        D: ``"js"``, ``"l2"`` or ``"kl"``.
    """

    sends = returns = frozenset({"soft_labels"})
    needs = frozenset({"label_counts"})
    caution = "ORACLE: sees private label counts. An upper bound for ablations, not a method to compare others with."

    def __init__(self, beta: float = 10.0, divergence: str = "js") -> None:
        if not (math.isfinite(beta) and beta >= 0):
            raise ValueError(f"beta={beta} must be finite and not negative")
        if divergence not in DIVERGENCES:
            raise ValueError(f"divergence={divergence!r} must be one of {', '.join(DIVERGENCES)}")
        self.beta = beta
        self.divergence = divergence

    def relate(self, knowledge: KnowledgeBatch) -> Tensor:
        """Return the relevance of every client for every client, ``[N, N]``."""
        return softmax(-self.beta * pairwise_divergence(knowledge.label_shares, self.divergence), dim=1)
