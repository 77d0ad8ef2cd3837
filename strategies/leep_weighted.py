"""LEEP as relevance: listen to those whose answers predict one's own (Nguyen et al., ICML 2020, arXiv 2002.12462).

The measure is the paper's, where it ranks pretrained models by a labelled target task. That it weighs clients, with
pseudo-labels on the transfer set for labels, is a use of ours.
"""

import math

import torch
from torch import Tensor, softmax
from torch.nn.functional import one_hot

from fedfuse.knowledge import KnowledgeBatch
from fedfuse.strategy import FusionStrategy


class LEEPWeighted(FusionStrategy):
    r"""LEEP-style: fuse, for each client, the answers of those that predict its pseudo-labels best.

    Client i's pseudo-label :math:`y_i(x)` is its most probable class. From the samples that both answered comes
    :math:`P(y|z)`, how often i says y where j says z, and from that the log expected empirical prediction

    .. math:: LEEP_{ij} = mean_x \log \sum_z P(y_i(x)|z)\, p_j(x)_z

    Client i listens to client j in proportion to :math:`\exp(LEEP_{ij} / temperature)`. Two clients that answered no
    sample in common count as guessing: :math:`-\log C`. Fusion space: probability. LEEP does not see under which names
    a client knows the classes: one that has consistently swapped two is believed, although its answers mislead.

    Parameters
    ----------
    temperature : float
        Positive: the lower, the more exclusively a client listens to the best.
    samples : int
        The measure, of every client for every other one, is taken on at most so many transfer samples: its cost grows
        with them, and its error is small already.
    """

    sends = returns = frozenset({"soft_labels"})

    def __init__(self, temperature: float = 0.1, samples: int = 100) -> None:
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"temperature={temperature} must be finite and positive")
        if samples < 1:
            raise ValueError(f"samples={samples} must be at least 1")
        self.temperature = temperature
        self.samples = samples

    def relate(self, knowledge: KnowledgeBatch) -> Tensor:
        """Return the relevance of every client for every client, ``[N, N]``."""
        return softmax(transferability(knowledge.first_answered(self.samples)) / self.temperature, dim=1)


def transferability(knowledge: KnowledgeBatch) -> Tensor:
    """Return the LEEP of every client's answers (column) for every client's pseudo-labels (row), float64 ``[N, N]``."""
    number, num_samples, num_classes = knowledge.soft_labels.shape
    answered = knowledge.mask.unsqueeze(2)
    answers = knowledge.soft_labels.where(answered, 0)
    labels = answers.argmax(2)
    targets = one_hot(labels, num_classes).where(answered, 0).to(answers.dtype)
    smallest = torch.finfo(answers.dtype).tiny

    # How often each client says y where each other one says z: [y of all clients, z of all clients].
    says = targets.transpose(1, 2).reshape(-1, num_samples)
    joint = (says @ answers.transpose(0, 1).reshape(num_samples, -1)).view(number, num_classes, number, num_classes)
    # A class that the other client never gives any probability predicts nothing.
    conditional = joint / joint.sum(1, keepdim=True).clamp_min(smallest)

    common = knowledge.mask.double() @ knowledge.mask.double().T
    scores = torch.full((number, number), -math.log(num_classes), dtype=torch.float64)
    for source in range(number):
        predicted = conditional[:, :, source].reshape(-1, num_classes) @ answers[source].T
        likelihood = predicted.view(number, num_classes, num_samples).gather(1, labels.unsqueeze(1)).squeeze(1)
        both = knowledge.mask & knowledge.mask[source]
        total = likelihood.clamp_min_(smallest).log_().where(both, 0).sum(1, dtype=torch.float64)
        scores[:, source] = torch.where(common[source] > 0, total / common[source].clamp_min(1), scores[:, source])
    return scores
