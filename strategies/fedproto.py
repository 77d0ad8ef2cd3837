"""FedProto: exchange class prototypes (Tan et al., AAAI 2022, arXiv 2105.00243)."""

from fedfuse.knowledge import Fused, KnowledgeBatch
from fedfuse.server import Server
from fedfuse.strategy import FusionStrategy


class FedProto(FusionStrategy):
    """FedProto: clients send the mean features of each class and are pulled towards the mean of all clients'.

    A class's global prototype is the plain mean over the clients that have it (as the authors' code does; the paper
    weighs by counts, which would have to travel). Clients may differ in architecture, not in the width of their
    features. No transfer set is used; which classes a client has becomes known to the server. Fusion space: features.
    Answers come from the model's head, not from the nearest prototype as in the paper.
    """

    sends = returns = frozenset({"prototypes"})
    one_embedding_size = True

    def fuse(self, knowledge: KnowledgeBatch, server: Server) -> Fused:
        """Average each class's prototypes over the clients that have it."""
        mask = knowledge.prototype_mask.unsqueeze(2).to(knowledge.prototypes.dtype)
        holders = mask.sum(0)
        prototypes = (knowledge.prototypes * mask).sum(0) / holders.clamp_min(1)
        return Fused.for_all(prototypes={"prototypes": prototypes, "mask": holders.squeeze(1) > 0})
