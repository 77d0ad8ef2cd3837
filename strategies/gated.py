"""A gate that is to do no harm: learn from others only where they are surer (Roth et al., ICLR 2024, arXiv 2310.17653).

The paper selects between a student and one or several teachers during distillation. Here the server does it, with the
mean of the other clients as the teacher: a port of ours, and of the unsupervised selection only.
"""

import torch

from fedfuse.fusion import mix
from fedfuse.knowledge import Fused, KnowledgeBatch
from fedfuse.server import Server
from fedfuse.strategy import FusionStrategy


class Gated(FusionStrategy):
    r"""Gated: each client gets, for each sample, the mean of the others or its own label, whichever is more confident.

    Confidence is the largest probability of a soft label. With :math:`\bar p_{-n}` the mean of all clients but n,

    .. math:: q_n(x) = \bar p_{-n}(x) \text{ if } \max_c \bar p_{-n}(x) > \max_c p_n(x), \text{ else } p_n(x)

    A client that did not answer a sample gets the mean of the others, one whom nobody else can help its own label.
    Fusion space: probability. The gate is as good as the clients' confidence is calibrated: one that is sure of
    everything learns nothing.
    """

    sends = returns = frozenset({"soft_labels"})

    def fuse(self, knowledge: KnowledgeBatch, server: Server) -> Fused:
        """Choose for every client and sample between its own label and that of the others."""
        own, mask = knowledge.soft_labels, knowledge.mask
        others, helped = mix(own, mask, 1 - torch.eye(len(knowledge)))
        surer = others.amax(2) > own.amax(2)
        listens = helped & (surer | ~mask)
        # Where nobody answered, what comes back from the mix is uniform.
        soft_labels = torch.where((mask & ~listens).unsqueeze(2), own, others)

        heard = mask.double()
        relevance = (listens / (heard.sum(0) - heard).clamp_min(1)) @ heard.T
        relevance.fill_diagonal_(0).diagonal().add_((heard * ~listens).sum(1))
        relevance /= relevance.sum(1, keepdim=True).clamp_min(1)
        tensors = {"soft_labels": soft_labels, "mask": mask | helped}
        return Fused.for_each(knowledge.client_ids, relevance=relevance, soft_labels=tensors)
