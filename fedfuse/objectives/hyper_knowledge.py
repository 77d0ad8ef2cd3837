"""Learn from mean features and mean answers of each class (FedHKD, Chen, Wang and Vikalo, ICLR 2023)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedfuse.models.outputs import Outputs
from fedfuse.objectives.objective import Batch, State

# Below this distance a norm is rounded off. A class of one sample has that sample's features as its mean: they differ
# by rounding alone, which a plain norm would turn into a gradient of full length.
ROUNDED_OFF = 1e-3


@dataclass(frozen=True)
class HeadAnswers:
    r"""Distance of the head's answer to a class's mean features from the class's mean answer.

    .. math:: \lambda\, \left\| softmax(h(H_y) / T) - softmax(\bar z_y / T) \right\|_2

    Parameters
    ----------
    weight : float
        The factor lambda.
    temperature : float
        T.
    """

    weight: float
    temperature: float
    needs: ClassVar[frozenset[str]] = frozenset({"labels", "class_logits"})
    per_sample: ClassVar[bool] = True

    def initial_state(self) -> State:
        """Return nothing: this loss has no memory."""
        return {}

    def __call__(self, outputs: Outputs, batch: Batch, mask: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the weighted distance for every sample of the feature space, ``[B]``."""
        target = torch.softmax(batch["class_logits"][batch["labels"]] / self.temperature, dim=1)
        known = batch["class_logits_mask"][batch["labels"]]
        distance = _norm(torch.softmax(outputs.logits / self.temperature, dim=1) - target)
        return self.weight * distance * known.to(distance.dtype), state


@dataclass(frozen=True)
class HyperKnowledge:
    r"""Distance of a sample's features from the mean features of its class; and at the head, see `HeadAnswers`.

    .. math:: \gamma\, \left\| \phi(x) - H_y \right\|_2

    The sample counts nothing where nobody has mean features of its class.

    Parameters
    ----------
    weight : float
        The factor lambda of the loss at the head, not negative.
    feature_weight : float
        The factor gamma, not negative.
    temperature : float
        T of the answers at the head, positive.

    Raises
    ------
    ValueError
        If a factor is negative or not finite, or the temperature not positive and finite.
    """

    weight: float = 1.0
    feature_weight: float = 0.05
    temperature: float = 0.5
    needs: ClassVar[frozenset[str]] = frozenset({"labels", "prototypes", "class_logits"})
    per_sample: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, factor in (("weight", self.weight), ("feature_weight", self.feature_weight)):
            if not (math.isfinite(factor) and factor >= 0):
                raise ValueError(f"{name}={factor} must be finite and not negative")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature={self.temperature} must be positive and finite")

    @property
    def at_head(self) -> HeadAnswers:
        """Return the loss of the head on the mean features of each class."""
        return HeadAnswers(self.weight, self.temperature)

    def initial_state(self) -> State:
        """Return nothing: this loss has no memory."""
        return {}

    def __call__(self, outputs: Outputs, batch: Batch, mask: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the weighted distance of every sample, ``[B]``."""
        target = batch["prototypes"][batch["labels"]]
        known = batch["prototype_mask"][batch["labels"]]
        distance = _norm(outputs.features - target)
        return self.feature_weight * distance * known.to(distance.dtype), state


def _norm(difference: Tensor) -> Tensor:
    return torch.sqrt(difference.square().sum(1) + ROUNDED_OFF**2) - ROUNDED_OFF
