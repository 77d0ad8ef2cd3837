"""KnFu-style fusion: each client learns from its semantic neighbours (Seyedmohammadi et al., 2024, arXiv 2403.11892).

Of the paper we read the abstract and the start of the introduction. The steps and ``beta = 10`` are the paper's; the
formulas below are ours and do not reproduce its equation (8).
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from fedfuse.fusion import pairwise_divergence
from fedfuse.knowledge import KnowledgeBatch
from fedfuse.sketch import nearest
from fedfuse.strategy import FusionStrategy

DIVERGENCES = ("kl", "js", "l2")


class KnFu(FusionStrategy):
    r"""KnFu-style: fuse, for each client, the knowledge of its semantic neighbours.

    The estimated probability distribution (EPD) of a client's data is the mean of its soft labels over the transfer
    set. Client n listens to client m in proportion to :math:`\exp(-\beta\, D(epd_n \| epd_m))`. Fusion space:
    probability. The EPD tells the server roughly which classes a client holds.

    Parameters
    ----------
    beta : float
        How strictly neighbours are chosen, not negative: 0 is the plain mean, a very large one is the client alone.
    divergence : str
        D: ``"js"`` (the default, the best of the three on validation data of the digits at alpha 0.5), ``"l2"``, or
        ``"kl"``, which is almost local-only under strong label skew.
    prior_correction : bool
        Whether to divide each EPD by the mean EPD of all clients (and make it sum to one again), so that what all
        answer alike, such as the classes of which the transfer set has most, says nothing about a client.
    neighbours : int, optional
        How many clients each one listens to, itself among them; with none given, to all. For very many clients.
    compare : str
        What D compares: ``"mean"``, the EPDs, or ``"answers"``, answer by answer, the mean of D over the samples. That
        is for ``kl`` only; with ``neighbours`` they are found by a sketch, `fedfuse.sketch`, because comparing all
        answers costs as much as mixing them. A sample that a client did not answer counts as an even answer.
    """

    sends = returns = frozenset({"soft_labels"})

    def __init__(
        self,
        beta: float = 10.0,
        divergence: str = "js",
        prior_correction: bool = False,
        neighbours: int | None = None,
        compare: str = "mean",
    ) -> None:
        if not (math.isfinite(beta) and beta >= 0):
            raise ValueError(f"beta={beta} must be finite and not negative")
        if divergence not in DIVERGENCES:
            raise ValueError(f"divergence={divergence!r} must be one of {', '.join(DIVERGENCES)}")
        if neighbours is not None and neighbours < 1:
            raise ValueError(f"neighbours={neighbours} must be 1 or above")
        if compare not in ("mean", "answers"):
            raise ValueError(f"compare={compare!r} must be mean or answers")
        if compare == "answers" and (divergence != "kl" or prior_correction):
            raise ValueError("compare='answers' needs divergence='kl' and no prior_correction")
        self.beta = beta
        self.divergence = divergence
        self.prior_correction = prior_correction
        self.neighbours = neighbours
        self.compare = compare

    def relate(self, knowledge: KnowledgeBatch) -> Tensor:
        """Return the relevance of every client for every client, ``[N, N]``."""
        if self.compare == "answers":
            return self._relate_by_answers(knowledge)
        soft_labels, mask = knowledge.soft_labels, knowledge.mask
        answered = mask.sum(1, keepdim=True).clamp_min(1)
        epd = torch.bmm(mask.to(soft_labels.dtype).unsqueeze(1), soft_labels).squeeze(1) / answered
        if self.prior_correction:
            # A class that nobody answers with, and a client without an answer, stay zero.
            smallest = torch.finfo(epd.dtype).tiny
            epd = epd / epd.mean(0).clamp_min(smallest)
            epd = epd / epd.sum(1, keepdim=True).clamp_min(smallest)
        divergence = pairwise_divergence(epd, self.divergence)
        return torch.softmax(divergence.mul_(-self.beta), dim=1, out=divergence)

    def _relate_by_answers(self, knowledge: KnowledgeBatch) -> Tensor:
        # As one distribution over samples and classes, whose divergence is the mean of those of the samples.
        answered = knowledge.mask.any(0)
        even = 1 / knowledge.soft_labels.shape[2]
        answers = knowledge.soft_labels
        if not knowledge.mask.all():
            answers = torch.where(knowledge.mask.unsqueeze(2), answers, even)[:, answered]
        answers = answers.flatten(1) / answered.sum().clamp_min(1)
        if self.neighbours is None:
            return torch.softmax(-self.beta * pairwise_divergence(answers, "kl"), dim=1)
        near = nearest(answers, self.neighbours)
        return replace(near, relevance=torch.softmax(-self.beta * near.relevance, dim=1)).dense(len(knowledge))
