"""FedGen-style: generate features that the clients' heads recognise (Zhu, Hong and Zhou, ICML 2021, arXiv 2105.10056).

The losses follow the authors' code as it is described; we did not check the paper equation by equation.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from fedfuse.knowledge import Fused, KnowledgeBatch
from fedfuse.server import Server
from fedfuse.strategy import FusionStrategy

Network = dict[str, Tensor]
BATCH_SIZE = 32


class FedGen(FusionStrategy):
    r"""FedGen-style: the server learns, from the clients' heads alone, to generate features that all of them recognise.

    The generator G, a hidden layer with ReLU, turns a label y and noise :math:`\epsilon` into features. It minimises

    .. math:: \sum_k w_k(y)\, CE(h_k(G(y, \epsilon)), y)
              + \eta\, \exp\left(-\frac{1}{B^2} \sum_{i, j} d_2(\epsilon_i, \epsilon_j)\, d_1(g_i, g_j)\right)

    over the clients' heads :math:`h_k`, with :math:`d_2` the mean squared and :math:`d_1` the mean absolute difference.
    :math:`w_k(y)` is client k's share of the samples with label y, where label counts may travel; without, all clients
    count alike for every class, also those that have never seen it. Clients learn the generated features with their
    labels beside their private data, at the head alone; see the objective ``generated``.

    Unlike the paper the features travel, not the generator, and the weights of the rest of the model do not, so that
    architectures may differ (not the width of their features); the clients' second term, which compares their answers
    to private and generated samples, and the decay of its weight over the rounds are left out. Heads tell roughly which
    classes a client holds, label counts exactly. Fusion space: features.

    Parameters
    ----------
    samples : int
        How many features are generated in a round.
    noise, hidden : int
        The widths of the noise and of the hidden layer.
    diversity : float
        The factor eta, not negative.
    steps : int
        Optimiser steps in a round, of Adam on batches of 32.
    lr : float
        Their learning rate, positive.
    label_counts : bool
        Whether clients must tell their label counts.
    """

    sends = frozenset({"head"})
    returns = frozenset({"generated"})
    one_embedding_size = True

    def __init__(
        self,
        samples: int = 500,
        noise: int = 32,
        hidden: int = 256,
        diversity: float = 1.0,
        steps: int = 100,
        lr: float = 0.003,
        label_counts: bool = False,
    ) -> None:
        for name, number in (("samples", samples), ("noise", noise), ("hidden", hidden), ("steps", steps)):
            if number < 1:
                raise ValueError(f"{name}={number} must be at least 1")
        if not (math.isfinite(diversity) and diversity >= 0):
            raise ValueError(f"diversity={diversity} must be finite and not negative")
        if not (math.isfinite(lr) and lr > 0):
            raise ValueError(f"lr={lr} must be finite and positive")
        self.samples = samples
        self.noise = noise
        self.hidden = hidden
        self.diversity = diversity
        self.steps = steps
        self.lr = lr
        # Of this instance alone: whether counts are needed is configured.
        self.needs = frozenset({"label_counts"} if label_counts else ())
        self.network: Network = {}

    def fuse(self, knowledge: KnowledgeBatch, server: Server) -> Fused:
        """Train the generator on the clients' heads, and generate features of all classes that count."""
        weights, biases = knowledge.tensor("head", "weight"), knowledge.tensor("head", "bias").double()
        dtype, weights = weights.dtype, weights.double()
        shares = self._shares(knowledge, server)
        if not self.network:
            self.network = self._first_network(weights.shape[2], server)
        classes = shares.sum(0).nonzero().squeeze(1)
        self._train(weights, biases, shares, classes, server, knowledge.round)
        labels = classes[torch.arange(self.samples) % len(classes)]
        noise = server.generator("fedgen samples", knowledge.round).standard_normal((self.samples, self.noise))
        features = _generate(self.network, labels, torch.from_numpy(noise))
        return Fused.for_all(generated={"features": features.to(dtype), "labels": labels})

    def _shares(self, knowledge: KnowledgeBatch, server: Server) -> Tensor:
        """Return how much each client counts for each class, ``[N, C]``; a class that nobody has sums to zero."""
        if knowledge.label_counts is None or "label_counts" not in self.needs:
            return torch.full((len(knowledge), server.num_classes), 1 / len(knowledge), dtype=torch.float64)
        return knowledge.label_counts / knowledge.label_counts.sum(0).clamp_min(1)

    def _train(
        self, weights: Tensor, biases: Tensor, shares: Tensor, classes: Tensor, server: Server, round: int
    ) -> None:
        generator = server.generator("fedgen", round)
        network = {name: tensor.clone().requires_grad_() for name, tensor in self.network.items()}
        optimizer = torch.optim.Adam(network.values(), lr=self.lr)
        for _ in range(self.steps):
            labels = classes[torch.from_numpy(generator.integers(len(classes), size=BATCH_SIZE))]
            noise = torch.from_numpy(generator.standard_normal((BATCH_SIZE, self.noise)))
            features = _generate(network, labels, noise)
            logits = torch.einsum("bd,ncd->nbc", features, weights) + biases.unsqueeze(1)
            losses = cross_entropy(logits.flatten(0, 1), labels.repeat(len(weights)), reduction="none")
            agreement = (shares[:, labels] * losses.view(len(weights), -1)).sum(0).mean()
            optimizer.zero_grad()
            torch.autograd.backward(agreement + self.diversity * _sameness(noise, features))
            optimizer.step()
        self.network = {name: tensor.detach() for name, tensor in network.items()}

    def _first_network(self, width: int, server: Server) -> Network:
        generator = server.generator("fedgen network")
        inputs = server.num_classes + self.noise
        first = generator.standard_normal((inputs, self.hidden))
        second = generator.standard_normal((self.hidden, width))
        return {
            "first": torch.from_numpy(first) * math.sqrt(2 / inputs),
            "first_bias": torch.zeros(self.hidden, dtype=torch.float64),
            "second": torch.from_numpy(second) * math.sqrt(1 / self.hidden),
            "second_bias": torch.zeros(width, dtype=torch.float64),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the generator; empty before the first round."""
        return {"network": dict(self.network)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.network = dict(state["network"])


def _generate(network: Network, labels: Tensor, noise: Tensor) -> Tensor:
    num_classes = len(network["first"]) - noise.shape[1]
    inputs = torch.cat([one_hot(labels, num_classes).to(noise.dtype), noise], dim=1)
    return torch.relu(inputs @ network["first"] + network["first_bias"]) @ network["second"] + network["second_bias"]


def _sameness(noise: Tensor, features: Tensor) -> Tensor:
    noise_distances = (noise.unsqueeze(1) - noise).square().mean(2)
    feature_distances = (features.unsqueeze(1) - features).abs().mean(2)
    return torch.exp(-(noise_distances * feature_distances).mean())
