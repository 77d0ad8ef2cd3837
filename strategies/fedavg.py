"""FedAvg: average the weights (McMahan et al., AISTATS 2017, arXiv 1602.05629, algorithm 1)."""

import torch
from torch import Tensor

from fedfuse.knowledge import Fused, KnowledgeBatch
from fedfuse.server import Server
from fedfuse.strategy import FusionStrategy


class FedAvg(FusionStrategy):
    """FedAvg: the mean of the clients' weights, each counting by its number of training examples.

    All clients have one architecture and start from common weights. Fusion space: parameters.
    """

    sends = returns = frozenset({"weights"})
    needs = frozenset({"num_examples"})
    one_architecture = True

    def initial(self, server: Server) -> Fused:
        """Start every client from the same weights."""
        (architecture,) = server.architectures
        return Fused.for_all(weights=server.build(architecture).state_dict())

    def fuse(self, knowledge: KnowledgeBatch, server: Server) -> Fused:
        """Average every parameter and buffer, weighted by the number of examples."""
        (cohort,) = knowledge.weights
        shares = knowledge.example_shares

        def average(stacked: Tensor) -> Tensor:
            mean: Tensor = torch.tensordot(shares, stacked.to(shares.dtype), dims=1)
            # Integer buffers are rounded: a count that is 7 everywhere must not become 6.999... and then 6.
            return (mean if stacked.is_floating_point() else mean.round()).to(stacked.dtype)

        weights = {name: average(stacked) for name, stacked in cohort.weights.items()}
        return Fused.for_all(relevance=shares.expand(len(shares), -1), weights=weights)
