"""Learn where the client is furthest behind, in the style of CoMD (Li et al., 2023, arXiv 2311.08213)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from fedfuse.fusion import SMALLEST_PROBABILITY
from fedfuse.knowledge import Tensors
from fedfuse.transfer.lesson import Lesson
from fedfuse.transfer.share import rows_in


@dataclass(frozen=True)
class HardMining:
    r"""Learn only from the samples in which the client's answers are furthest from the fused soft labels: CoMD-style.

    Those with the largest :math:`KL(p \| q)` between the fused soft label p and the client's own answer q are kept.
    CoMD judges how the student does, makes more samples like the difficult ones, distils, and begins again; this step
    chooses among the transfer samples and makes none.

    Parameters
    ----------
    fraction : float
        The share of the rows that is kept, in ``(0, 1]``; rounded up.

    Raises
    ------
    ValueError
        If the fraction is out of range.
    """

    fraction: float = 0.5
    needs_own: ClassVar[bool] = True
    weighs: ClassVar[bool] = False
    changes_inputs: ClassVar[bool] = False
    needs_domains: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction={self.fraction} must lie in (0, 1]")

    def initial_state(self, num_classes: int) -> Tensors:
        """Return nothing: this step has no memory."""
        return {}

    def __call__(
        self, lesson: Lesson, state: Tensors, round: int, generator: np.random.Generator
    ) -> tuple[Lesson, Tensors]:
        """Return the lesson with the rows that are kept, in their order."""
        assert lesson.own is not None, "it was asked for"
        fused, own = (
            probabilities[lesson.rows].clamp_min(SMALLEST_PROBABILITY)
            for probabilities in (lesson.soft_labels, lesson.own)
        )
        divergence = (fused * (fused.log() - own.log())).sum(1)
        hardest_first = torch.argsort(divergence, descending=True, stable=True)
        kept = hardest_first[: rows_in(self.fraction, len(divergence))].sort().values
        return replace(lesson, rows=lesson.rows[kept]), state
