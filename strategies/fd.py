"""FD, federated distillation: exchange the mean logits of each class (Jeong et al., 2018, arXiv 1811.11479)."""

import torch

from fedfuse.knowledge import Fused, KnowledgeBatch
from fedfuse.server import Server
from fedfuse.strategy import FusionStrategy


class FD(FusionStrategy):
    """FD: clients send their mean logits by class and learn to answer each class like the mean of the others.

    For each client and class, the plain mean over the other clients that have the class; nothing where there is no
    other. It becomes a term of the next training. Clients may differ in architecture, and no transfer set is used;
    which classes a client has becomes known to the server. Leaving out the client's own logits, and what the term looks
    like, follow descriptions of the method, not the paper's text. Fusion space: logits.
    """

    sends = returns = frozenset({"class_logits"})

    def fuse(self, knowledge: KnowledgeBatch, server: Server) -> Fused:
        """Average, for each client, the class logits of the others."""
        mask = knowledge.class_logits_mask
        # Added up in double precision, because a client's own part is taken away again.
        logits = torch.where(mask.unsqueeze(2), knowledge.class_logits, 0).double()
        others = mask.sum(0) - mask.long()
        mean = (logits.sum(0) - logits) / others.clamp_min(1).unsqueeze(2)
        tensors = {"class_logits": mean.to(knowledge.class_logits.dtype), "mask": others > 0}
        return Fused.for_each(knowledge.client_ids, class_logits=tensors)
