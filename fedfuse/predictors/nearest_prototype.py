"""Answer with the nearest class mean in the feature space, as FedProto can (Tan et al., AAAI 2022)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedfuse.models.outputs import Outputs
from fedfuse.predictors.predictor import TRAINING_OUTPUTS, Answer, Own


@dataclass(frozen=True)
class NearestPrototype:
    r"""The softmax of how near a sample's features are to the mean features of each of the client's classes.

    .. math:: P_c = softmax_c\left(- \frac{\| f - \mu_c \|^2}{D \, T}\right)

    The squared distance is the mean over the D features, as in the objective ``prototype``. The mean of a class is
    that of the client's own training samples; of a class without any, the global prototype that was received; where
    there is none either, the class gets probability 0.

    Parameters
    ----------
    temperature : float
        T, positive. Lower makes the answers surer; which class is the likeliest stays the same.

    Raises
    ------
    ValueError
        If the temperature is not positive and finite.
    """

    temperature: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset({TRAINING_OUTPUTS})
    # Its zeros tell which classes the client has.
    tells_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature={self.temperature} must be positive and finite")

    def fit(self, own: Own) -> Answer:
        """Return the softmax of the nearness to the client's prototypes; uniform without any."""
        prototypes, known = _prototypes(own)

        def answer(outputs: Outputs, inputs: Tensor) -> Tensor:
            # Not through matrix products, which cancel where samples are near.
            distance = torch.cdist(outputs.features, prototypes, compute_mode="donot_use_mm_for_euclid_dist")
            nearness = -distance.square() / (prototypes.shape[1] * self.temperature)
            return torch.softmax(torch.where(known, nearness, -math.inf), dim=1)

        return answer


def _prototypes(own: Own) -> tuple[Tensor, Tensor]:
    """Return a prototype for each class ``[C, D]``, and a bool ``[C]``: where there is one, or all without any."""
    assert own.outputs is not None, "the predictor needs what the model makes of training samples"
    features = own.outputs.features
    counts = torch.bincount(own.labels, minlength=own.num_classes)
    sums = features.new_zeros(own.num_classes, features.shape[1]).index_add(0, own.labels, features)
    prototypes, known = sums / counts.clamp_min(1).unsqueeze(1), counts > 0
    if own.received:
        received = own.received["mask"] & ~known
        prototypes = torch.where(received.unsqueeze(1), own.received["prototypes"].to(features.dtype), prototypes)
        known = known | received
    return prototypes, known | ~known.any()
