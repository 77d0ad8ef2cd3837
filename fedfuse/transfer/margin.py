"""Weigh transfer samples by margins, in the style of WAD (Du et al., ICCV 2023, arXiv 2308.11874)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedfuse.knowledge import Tensors
from fedfuse.transfer.lesson import Lesson


@dataclass(frozen=True)
class Margin:
    r"""Weigh each transfer sample by the margin of its fused soft label: WAD-style weights.

    .. math:: w = p_{(1)} - p_{(2)}

    is the difference of the two highest probabilities. Samples of a class that no client has tend to get small margins,
    and so count little. WAD takes the margin of similarities to labelled samples, by features; here it is that of the
    fused soft label. Weights of a step before are multiplied with these.

    Parameters
    ----------
    normalise : bool
        Divide by the mean margin of the rows that are learnt from: raw margins also make the learning rate smaller.
        Where no row has a margin, all weights are zero.

    Raises
    ------
    ValueError
        If ``normalise`` is neither true nor false.
    """

    normalise: bool = True
    needs_own: ClassVar[bool] = False
    weighs: ClassVar[bool] = True
    changes_inputs: ClassVar[bool] = False
    needs_domains: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.normalise, bool):
            raise ValueError(f"normalise={self.normalise!r} must be true or false")

    def initial_state(self, num_classes: int) -> Tensors:
        """Return nothing: this step has no memory."""
        return {}

    def __call__(
        self, lesson: Lesson, state: Tensors, round: int, generator: np.random.Generator
    ) -> tuple[Lesson, Tensors]:
        """Return the lesson with weights ``[M]``."""
        weights = margins(lesson.soft_labels)
        if self.normalise and len(lesson.rows):
            weights = weights / weights[lesson.rows].mean().clamp_min(torch.finfo(weights.dtype).tiny)
        if lesson.weights is not None:
            weights = weights * lesson.weights
        return replace(lesson, weights=weights), state


def margins(probabilities: Tensor) -> Tensor:
    """Return how far the highest probability of each row is above the second highest, ``[B]``."""
    highest = probabilities.topk(2, dim=1).values
    return highest[:, 0] - highest[:, 1]
