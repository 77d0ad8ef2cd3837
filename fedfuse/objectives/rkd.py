"""Relational knowledge distillation (Park, Kim, Lu and Cho, CVPR 2019, arXiv 1904.05068)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from fedfuse.models.outputs import Outputs
from fedfuse.objectives.objective import Batch, State

# Points closer than this share of the mean distance count as one: rounding alone would say in which direction one lies.
SAME_PLACE = 1e-6


@dataclass(frozen=True)
class RKD:
    r"""RKD-style: see transfer samples as far apart, and under the same angles, as the clients do on average.

    .. math:: w_D \, \mathrm{mean}_{i \neq j}\, \ell(d^S_{ij}, d^T_{ij})
        + w_A \, \mathrm{mean}_{i \neq j \neq k \neq i}\, \ell(\cos^S_{ijk}, \cos^T_{ijk})

    with l the smooth L1 loss, d the distances within the batch, of the student as of the target relative to the mean
    of those above zero, and the angle at sample j between samples i and k.

    It differs from the paper's in what the target is: distances, from which the angles follow by the law of cosines.
    Distances averaged over clients need not be those of any points, so the cosines are clamped to [-1, 1]. And the
    means are over real pairs and triples only, where the authors' code also counts the zeros of a sample with itself.
    Where two points are one, no angle is taken from one to the other. A step needs memory for the cube of the batch
    size; with the stacked runner, for every client of a cohort.

    Parameters
    ----------
    distance_weight, angle_weight : float
        w_D and w_A, not negative.

    Raises
    ------
    ValueError
        If a weight is negative or not finite.
    """

    distance_weight: float = 25.0
    angle_weight: float = 50.0
    needs: ClassVar[frozenset[str]] = frozenset({"relations"})
    per_sample: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("distance_weight", "angle_weight"):
            weight = getattr(self, name)
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"{name}={weight} must be finite and not negative")

    def initial_state(self) -> State:
        """Return nothing: this loss has no memory."""
        return {}

    def __call__(self, outputs: Outputs, batch: Batch, mask: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the weighted sum of both terms, a scalar; zero where too few samples of the batch have relations."""
        real = mask & batch["relations_known"]
        other = ~torch.eye(len(mask), dtype=torch.bool, device=mask.device)
        pairs = real.unsqueeze(0) & real.unsqueeze(1) & other
        target = _relative(batch["relations"][:, batch["positions"]], pairs)
        # One point stands for all that do not count: nothing of theirs, however large, enters a sum or a gradient.
        features = torch.where(real.unsqueeze(1), outputs.features, 0)
        offsets = features.unsqueeze(0) - features.unsqueeze(1)
        squares = offsets.square().sum(2)
        distances = torch.where(squares > 0, torch.where(squares > 0, squares, 1).sqrt(), 0)
        student = _relative(distances, pairs)
        distance_loss = _mean(smooth_l1_loss(student, target, reduction="none"), pairs)

        apart = pairs & (student > SAME_PLACE) & (target > SAME_PLACE)
        directions = offsets / torch.where(apart, distances, 1).unsqueeze(2)
        cosines = directions @ directions.transpose(1, 2)
        triples = apart.unsqueeze(1) & apart.unsqueeze(2) & other
        angle_loss = _mean(smooth_l1_loss(cosines, _cosines(target, apart), reduction="none"), triples)
        return self.distance_weight * distance_loss + self.angle_weight * angle_loss, state


def _relative(distances: Tensor, pairs: Tensor) -> Tensor:
    """Divide distances ``[B, B]`` by the mean of those of real pairs that are above zero."""
    counted = torch.where(pairs, distances, 0)
    mean = counted.sum() / (counted > 0).sum().clamp_min(1)
    return counted / torch.where(mean > 0, mean, 1)


def _cosines(distances: Tensor, apart: Tensor) -> Tensor:
    """Return by the law of cosines, for every sample j, that of the angle between samples i and k: ``[j, i, k]``."""
    legs = torch.where(apart, distances, 1)
    squares = legs.square()
    across = squares.unsqueeze(2) + squares.unsqueeze(1) - distances.square().unsqueeze(0)
    return (across / (2 * legs.unsqueeze(2) * legs.unsqueeze(1))).clamp(-1, 1)


def _mean(losses: Tensor, counted: Tensor) -> Tensor:
    return torch.where(counted, losses, 0).sum() / counted.sum().clamp_min(1)
