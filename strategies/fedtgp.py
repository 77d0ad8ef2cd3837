"""FedTGP-style: the server trains prototypes that lie apart (Zhang et al., AAAI 2024, arXiv 2401.03230).

The loss and the shape of what is trained follow descriptions of the paper, which we did not check equation by equation.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fedfuse.knowledge import Fused, KnowledgeBatch
from fedfuse.server import Server
from fedfuse.strategy import FusionStrategy

Network = dict[str, Tensor]


class FedTGP(FusionStrategy):
    r"""FedTGP-style: clients are pulled towards prototypes that the server trains to lie near theirs and apart.

    A trainable vector for each class goes through a small network (two layers) and becomes its global prototype
    :math:`\hat P^c`. Every round the server trains vectors and network on the clients' prototypes :math:`P_i^c` with a
    contrastive loss, d the Euclidean distance over the classes that anybody has:

    .. math:: -\log \frac{\exp(-d(P_i^c, \hat P^c) - \delta)}
        {\exp(-d(P_i^c, \hat P^c) - \delta) + \sum_{c' \ne c} \exp(-d(P_i^c, \hat P^{c'}))}

    The margin :math:`\delta` is the largest distance between the mean prototypes of two classes, at most
    ``largest_margin``, so that prototypes of different classes come to lie far apart even where the clients' are mixed.
    Unlike the paper, training is by Adam on all prototypes at once. Clients absorb as in `fedproto`, whose needs and
    leaks these are too. Fusion space: features.

    Parameters
    ----------
    largest_margin : float
        The bound of the margin, not negative.
    steps : int
        Optimiser steps in a round.
    lr : float
        Their learning rate, positive.
    """

    sends = returns = frozenset({"prototypes"})
    one_embedding_size = True

    def __init__(self, largest_margin: float = 100.0, steps: int = 100, lr: float = 0.01) -> None:
        if not (math.isfinite(largest_margin) and largest_margin >= 0):
            raise ValueError(f"largest_margin={largest_margin} must be finite and not negative")
        if steps < 1:
            raise ValueError(f"steps={steps} must be at least 1")
        if not (math.isfinite(lr) and lr > 0):
            raise ValueError(f"lr={lr} must be finite and positive")
        self.largest_margin = largest_margin
        self.steps = steps
        self.lr = lr
        self.network: Network = {}

    def fuse(self, knowledge: KnowledgeBatch, server: Server) -> Fused:
        """Train the global prototypes on the clients', and send them to all."""
        mask = knowledge.prototype_mask
        known = mask.any(0)
        own = torch.where(mask.unsqueeze(2), knowledge.prototypes, 0).double()
        if not self.network:
            self.network = _first_network(own.shape[1], own.shape[2], server)
        if known.any():
            self._train(own, mask, known)
        prototypes = _prototypes(self.network).to(knowledge.prototypes.dtype)
        return Fused.for_all(prototypes={"prototypes": prototypes * known.unsqueeze(1), "mask": known})

    def _train(self, own: Tensor, mask: Tensor, known: Tensor) -> None:
        means = (own.sum(0) / mask.sum(0).clamp_min(1).unsqueeze(1))[known]
        margin = torch.cdist(means, means).max().clamp_max(self.largest_margin)
        clients, classes = mask.nonzero(as_tuple=True)
        samples, targets = own[clients, classes], (known.cumsum(0) - 1)[classes]
        margins = margin * torch.nn.functional.one_hot(targets, len(means))

        network = {name: tensor.clone().requires_grad_() for name, tensor in self.network.items()}
        optimizer = torch.optim.Adam(network.values(), lr=self.lr)
        for _ in range(self.steps):
            optimizer.zero_grad()
            distances = torch.cdist(samples, _prototypes(network)[known], compute_mode="donot_use_mm_for_euclid_dist")
            loss = torch.nn.functional.cross_entropy(-distances - margins, targets)
            torch.autograd.backward(loss)
            optimizer.step()
        self.network = {name: tensor.detach() for name, tensor in network.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the vectors and the network; empty before the first round."""
        return {"network": dict(self.network)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.network = dict(state["network"])


def _first_network(num_classes: int, width: int, server: Server) -> Network:
    generator = server.generator("fedtgp")
    shapes = {"vectors": (num_classes, width), "first": (width, width), "second": (width, width)}
    drawn = {name: torch.from_numpy(generator.standard_normal(shape)) for name, shape in shapes.items()}
    biases = {name: torch.zeros(width, dtype=torch.float64) for name in ("first_bias", "second_bias")}
    scale = math.sqrt(2 / width)
    return {"vectors": drawn["vectors"], "first": scale * drawn["first"], "second": scale * drawn["second"], **biases}


def _prototypes(network: Network) -> Tensor:
    hidden = torch.relu(network["vectors"] @ network["first"] + network["first_bias"])
    return hidden @ network["second"] + network["second_bias"]
