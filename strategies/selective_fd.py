"""Selective-FD-style: leave out answers that their clients should not give (Shao et al., Nature Communications, 2024).

arXiv 2304.01731, after descriptions of the authors' code.
"""

import torch
from torch import Tensor

from fedfuse.knowledge import Fused, KnowledgeBatch
from fedfuse.server import Server
from fedfuse.strategy import FusionStrategy


class SelectiveFD(FusionStrategy):
    r"""Selective-FD-style: the mean of the answers to familiar samples, without the samples on which it is ambiguous.

    Two selectors. The first leaves out client n's answer to a sample that its own data make less likely than the share
    ``quantile`` of themselves: there it would guess. The second leaves out a sample if the mean :math:`\bar p` of the
    other answers is far from decided: if :math:`\|onehot(\arg\max \bar p) - \bar p\|_1 \ge` ``ambiguity``. A sample
    that is familiar to nobody is not learnt from either. Fusion space: probability.

    The paper's first selector works on the client, which sends only what it keeps, by a density ratio of its data to a
    uniform distribution (KuLSIF). Such a ratio orders samples as a density does, so ours is the kernel density of
    `fedfuse.carriers.densities`; and the selection is made here, so the server sees all answers and which samples are
    familiar to whom. The default for ``ambiguity`` leaves nothing out, as in later comparisons.

    Parameters
    ----------
    quantile : float
        The share of a client's own samples that are less likely to it than what it may answer, from 0 to 1.
    ambiguity : float
        The distance from a decided answer at which a sample is left out, above 0 and at most 2, which leaves out none.
    """

    sends = frozenset({"soft_labels", "densities"})
    returns = frozenset({"soft_labels"})

    def __init__(self, quantile: float = 0.125, ambiguity: float = 2.0) -> None:
        if not 0 <= quantile <= 1:
            raise ValueError(f"quantile={quantile} must be from 0 to 1")
        if not 0 < ambiguity <= 2:
            raise ValueError(f"ambiguity={ambiguity} must be above 0 and at most 2")
        self.quantile = quantile
        self.ambiguity = ambiguity

    def weigh(self, knowledge: KnowledgeBatch) -> Tensor:
        """Return one for answers to familiar samples and zero for others, ``[N, M]``."""
        return (knowledge.familiarity >= self.quantile).to(knowledge.soft_labels.dtype)

    def fuse(self, knowledge: KnowledgeBatch, server: Server) -> Fused:
        """Average the answers to familiar samples, and leave out what remains ambiguous."""
        averaged = super().fuse(knowledge, server)
        assert averaged.common is not None, "without relate, all clients get the same"
        mean, mask = (averaged.common["soft_labels"][name] for name in ("soft_labels", "mask"))
        decided = torch.zeros_like(mean).scatter_(1, mean.argmax(1, keepdim=True), 1)
        ambiguous = (decided - mean).abs().sum(1) >= self.ambiguity
        return Fused.for_all(averaged.relevance, soft_labels={"soft_labels": mean, "mask": mask & ~ambiguous})
