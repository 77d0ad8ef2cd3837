"""FedAUX-style fusion: a mean of logits weighted by certainty (Sattler et al., 2021, arXiv 2102.02514)."""

import torch
from torch import Tensor

from fedfuse.knowledge import KnowledgeBatch
from fedfuse.strategy import FusionStrategy

SMALLEST_SCORE = 1e-8


class FedAUX(FusionStrategy):
    r"""FedAUX-style: one consensus for all, the mean of logits weighted by each client's certainty on each sample.

    .. math:: q(x) = softmax\left(\frac{\sum_n s_n(x) \log p_n(x)}{\sum_n s_n(x)}\right), \quad
              s_n(x) = 1 - \frac{H(p_n(x))}{\log C} + 10^{-8}

    With equal scores it is the mean of logits, the target of FedDF. Fusion space: logit.

    The rule is that of the authors' code, the score is ours: theirs is the probability that x resembles the client's
    data rather than auxiliary negatives, from a logistic regression on pretrained features with the noise of
    differential privacy. It asks for a message and features that clients do not have here. Ours is taken from the soft
    labels alone, gives no guarantee, and is as good as the clients' certainty is calibrated. Clients share soft labels
    instead of weights, and there is no server model.
    """

    sends = returns = frozenset({"soft_labels"})
    space = "logit"

    def weigh(self, knowledge: KnowledgeBatch) -> Tensor:
        """Return the certainty of each answer, ``[N, M]``."""
        soft_labels = knowledge.soft_labels.double().clamp_min(0)
        entropy = torch.special.entr(soft_labels).sum(2)
        uniform = torch.log(torch.tensor(soft_labels.shape[2], dtype=torch.float64))
        certainty = (1 - entropy / uniform).clamp(0, 1)
        return torch.where(knowledge.mask, certainty + SMALLEST_SCORE, 0)
