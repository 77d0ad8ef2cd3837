"""FedGKT-style: a larger head on the server, taught with private features (He, Annavaram and Avestimehr, NeurIPS 2020).

The losses follow the authors' code as it is described; we did not check the paper (arXiv 2007.14513).
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from fedfuse.knowledge import Fused, KnowledgeBatch
from fedfuse.server import Server
from fedfuse.strategy import FusionStrategy

Network = dict[str, Tensor]


class FedGKT(FusionStrategy):
    r"""FedGKT-style: clients send private features with labels; a larger head, trained on them, answers each client's.

    LEAKS: it is here as a contrast, for what can be had by giving up privacy. In every round the server trains a head
    with one hidden layer on the features of all participants' training samples, z being the server's logits of a
    sample and :math:`z^c` the client's:

    .. math:: T^2\, KL\left(softmax(z^c / T) \,\|\, softmax(z / T)\right) + \alpha\, CE(z, y)

    and each participant gets soft labels of its own samples, from which it learns, beside their labels, in the next
    rounds that it takes part in (objective ``kd``). One that got none yet learns from labels alone.

    Unlike the paper, a client's model is whole and has a head of its own, on which it is evaluated; and the server's is
    a perceptron, not a deep network on feature maps, trained by Adam on all samples at once. Architectures may differ,
    not the width of their features. Fusion space: features, then logits.

    Parameters
    ----------
    hidden : int
        The width of the server's hidden layer.
    temperature : float
        T of the server's training, positive. That of the clients is the objective's.
    label_weight : float
        The factor alpha, not negative.
    steps : int
        Optimiser steps in a round.
    lr : float
        Their learning rate, positive.
    """

    sends = frozenset({"private_features"})
    returns = frozenset({"private_soft_labels"})
    needs = frozenset({"private_labels"})
    one_embedding_size = True
    caution = "LEAKS: clients send features and labels of their private samples."

    def __init__(
        self,
        hidden: int = 256,
        temperature: float = 1.0,
        label_weight: float = 1.0,
        steps: int = 100,
        lr: float = 0.01,
    ) -> None:
        for name, number in (("hidden", hidden), ("steps", steps)):
            if number < 1:
                raise ValueError(f"{name}={number} must be at least 1")
        for name, value in (("temperature", temperature), ("lr", lr)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value} must be finite and positive")
        if not (math.isfinite(label_weight) and label_weight >= 0):
            raise ValueError(f"label_weight={label_weight} must be finite and not negative")
        self.hidden = hidden
        self.temperature = temperature
        self.label_weight = label_weight
        self.steps = steps
        self.lr = lr
        self.network: Network = {}

    def fuse(self, knowledge: KnowledgeBatch, server: Server) -> Fused:
        """Train the server's head on the features of all clients, and answer each client's own."""
        samples = knowledge.tensors["private_features"]
        features = samples["features"].double()
        if not self.network:
            self.network = self._first_network(features.shape[1], server)
        if len(features):
            self._train(features, samples["logits"].double(), samples["labels"])
        answers = torch.softmax(_logits(self.network, features), dim=1).to(samples["logits"].dtype)
        return Fused(
            personal={
                client_id: {"private_soft_labels": {"soft_labels": answers[samples["owners"] == row]}}
                for row, client_id in enumerate(knowledge.client_ids)
            }
        )

    def _train(self, features: Tensor, client_logits: Tensor, labels: Tensor) -> None:
        targets = log_softmax(client_logits / self.temperature, dim=1)
        network = {name: tensor.clone().requires_grad_() for name, tensor in self.network.items()}
        optimizer = torch.optim.Adam(network.values(), lr=self.lr)
        for _ in range(self.steps):
            logits = _logits(network, features)
            answers = log_softmax(logits / self.temperature, dim=1)
            divergence = self.temperature**2 * kl_div(answers, targets, reduction="batchmean", log_target=True)
            optimizer.zero_grad()
            torch.autograd.backward(divergence + self.label_weight * cross_entropy(logits, labels))
            optimizer.step()
        self.network = {name: tensor.detach() for name, tensor in network.items()}

    def _first_network(self, width: int, server: Server) -> Network:
        generator = server.generator("fedgkt")
        first = generator.standard_normal((width, self.hidden))
        second = generator.standard_normal((self.hidden, server.num_classes))
        return {
            "first": torch.from_numpy(first) * math.sqrt(2 / width),
            "first_bias": torch.zeros(self.hidden, dtype=torch.float64),
            "second": torch.from_numpy(second) * math.sqrt(1 / self.hidden),
            "second_bias": torch.zeros(server.num_classes, dtype=torch.float64),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the server's head; empty before the first round."""
        return {"network": dict(self.network)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.network = dict(state["network"])


def _logits(network: Network, features: Tensor) -> Tensor:
    hidden = torch.relu(features @ network["first"] + network["first_bias"])
    return hidden @ network["second"] + network["second_bias"]
