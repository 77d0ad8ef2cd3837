"""TMI as relevance: listen to those whose answers differ most within one's own classes (Xu and Kang, ICCV 2023).

The paper ranks pretrained models by the entropy of their features given the labels of a target task; we read the
authors' code. It estimates the entropy from nearest neighbours; for every pair of clients that would be too slow, and
a normal distribution stands for it here.
"""

import math

from torch import Tensor, softmax
from torch.nn.functional import one_hot

from fedfuse.fusion import SMALLEST_PROBABILITY
from fedfuse.knowledge import KnowledgeBatch
from fedfuse.strategy import FusionStrategy

# Stands for the smallest distance of the authors' code: what varies less counts as varying so much.
SMALLEST_DEVIATION = 0.1


class TMIWeighted(FusionStrategy):
    r"""TMI-style: fuse, for each client, the answers of those that tell most apart within its own classes.

    Client j's features :math:`Z_j` are its log-probabilities, centred, and of unit mean square over all samples that
    it answered, so that clients are comparable. Client i's pseudo-label :math:`Y_i` is its most probable class. With
    the samples that both answered and one normal distribution for each class and feature,

    .. math:: TMI_{ij} = \frac{1}{C} H(Z_j | Y_i)
              = \sum_y \frac{n_y}{n}\, mean_d\, \frac{1}{2} \log\left(2 \pi e\, Var(Z_{jd} | y)\right)

    where a class with fewer than two samples counts 0. Client i listens to client j in proportion to
    :math:`\exp(TMI_{ij} / temperature)`: a higher variance within classes counts as more transferable. A client that
    disagrees at random has such a variance too, so mild weights are the default. Fusion space: probability.

    Parameters
    ----------
    temperature : float
        Positive: the lower, the more exclusively a client listens to the best.
    samples : int
        The measure, of every client for every other one, is taken on at most so many transfer samples: its cost grows
        with them, and its error is small already.
    """

    sends = returns = frozenset({"soft_labels"})

    def __init__(self, temperature: float = 1.0, samples: int = 200) -> None:
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
    """Return the entropy of every client's features (column) in every client's classes (row), ``[N, N]``."""
    number, num_samples, num_classes = knowledge.soft_labels.shape
    answered = knowledge.mask.unsqueeze(2)
    labels = one_hot(knowledge.soft_labels.argmax(2), num_classes).where(answered, 0)
    says = labels.transpose(1, 2).reshape(-1, num_samples).to(knowledge.soft_labels.dtype)
    features = _features(knowledge).transpose(0, 1).reshape(num_samples, -1)

    def by_class(values: Tensor) -> Tensor:
        """Sum ``[M, ...]`` over the samples of each class of each client: ``[N, C, N, ...]``."""
        return (says @ values).view(number, num_classes, number, -1)

    count = by_class(knowledge.mask.T.to(says.dtype))
    mean = by_class(features) / count.clamp_min(1)
    variance = by_class(features.square()) / count.clamp_min(1) - mean.square()
    entropy = 0.5 * (2 * math.pi * math.e * variance.clamp_min(SMALLEST_DEVIATION**2)).log().mean(3)
    count = count.squeeze(3)
    return (entropy.where(count > 1, 0) * count).sum(1) / count.sum(1).clamp_min(1)


def _features(knowledge: KnowledgeBatch) -> Tensor:
    """Return each client's log-probabilities ``[N, M, C]``, centred by sample and by class, of unit mean square."""
    answered = knowledge.mask.unsqueeze(2)
    number = knowledge.mask.sum(1).clamp_min(1).view(-1, 1, 1)
    logits = knowledge.soft_labels.clamp_min(SMALLEST_PROBABILITY).log().where(answered, 0)
    logits = logits - logits.mean(2, keepdim=True)
    logits = (logits - logits.sum(1, keepdim=True) / number).where(answered, 0)
    mean_square = logits.square().sum((1, 2), keepdim=True) / (number * logits.shape[2])
    return logits / mean_square.sqrt().clamp_min(SMALLEST_PROBABILITY)
