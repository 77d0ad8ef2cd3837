"""FedHKD-style: exchange mean features and mean answers by class (Chen, Wang and Vikalo, ICLR 2023)."""

import torch
from torch import Tensor

from fedfuse.knowledge import Fused, KnowledgeBatch
from fedfuse.server import Server
from fedfuse.strategy import FusionStrategy


class FedHKD(FusionStrategy):
    r"""FedHKD-style: clients send mean features and mean logits of each class, and learn from everybody's means.

    A class's :math:`H` and :math:`\bar z` are the plain means over the clients that have it. A client then learns with

    .. math:: CE + \lambda\, \frac{1}{|J|} \sum_{j \in J} \left\| softmax(h(H_j) / T) - Q_j \right\|_2
              + \gamma\, \left\| \phi(x) - H_y \right\|_2, \quad Q_j = softmax(\bar z_j / T)

    where h is its head, :math:`\phi` gives its features, and J are the classes that anybody has; see the objective
    ``hyper_knowledge`` for the factors and T.

    Unlike the paper, no weights are exchanged, so that architectures may differ (not the width of their features); Q is
    the softmax of mean logits instead of the mean of soft predictions; clients count alike, because their counts would
    have to travel; classes with few samples are not left out; and there is no noise. The factors and the norms follow
    descriptions that we did not check against the paper. Which classes a client has becomes known to the server. Fusion
    space: features and logits.
    """

    sends = returns = frozenset({"prototypes", "class_logits"})
    one_embedding_size = True

    def fuse(self, knowledge: KnowledgeBatch, server: Server) -> Fused:
        """Average each class's features and logits over the clients that have it."""
        prototypes, has_features = _mean(knowledge.prototypes, knowledge.prototype_mask)
        class_logits, has_logits = _mean(knowledge.class_logits, knowledge.class_logits_mask)
        return Fused.for_all(
            prototypes={"prototypes": prototypes, "mask": has_features},
            class_logits={"class_logits": class_logits, "mask": has_logits},
        )


def _mean(tensor: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    holders = mask.sum(0)
    total = torch.where(mask.unsqueeze(2), tensor, 0).double().sum(0)
    return (total / holders.clamp_min(1).unsqueeze(1)).to(tensor.dtype), holders > 0
