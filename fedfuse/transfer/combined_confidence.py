"""Choose confident transfer samples, in the style of KD^3 (Tang et al., ICCV 2023, arXiv 2307.11469)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from fedfuse.knowledge import Tensors
from fedfuse.transfer.lesson import Lesson
from fedfuse.transfer.share import rows_in


@dataclass(frozen=True)
class ConfidentSelection:
    r"""Learn first from samples that the fused soft label and the client's own answer are together sure of: KD3-style.

    .. math:: c = \max_k \, \left(w \, p_k + (1 - w) \, q_k\right)

    is the confidence of a sample with the fused soft label p and the client's own answer q. Of each class, the argmax
    of the same mixture, the most confident share is kept, at least one sample; so no class dies out. The share grows
    linearly from ``start`` in round 1 to all in round ``num_rounds``. Paper and this step have in common that teacher
    and student decide together what is learnt from; mixture, shares and their growth are ours. The paper's other
    parts, a shared classifier and mixed statistics of features, are not here.

    Parameters
    ----------
    start : float
        The share of each class in round 1, in ``(0, 1]``; rounded up.
    num_rounds : int
        The round from which all samples are learnt from, at least 1.
    weight : float
        w, how much of the mixture the fused soft label is, in ``[0, 1]``.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """

    start: float = 0.3
    num_rounds: int = 10
    weight: float = 0.5
    needs_own: ClassVar[bool] = True
    weighs: ClassVar[bool] = False
    changes_inputs: ClassVar[bool] = False
    needs_domains: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.start <= 1:
            raise ValueError(f"start={self.start} must lie in (0, 1]")
        if isinstance(self.num_rounds, bool) or not isinstance(self.num_rounds, int) or self.num_rounds < 1:
            raise ValueError(f"num_rounds={self.num_rounds!r} must be a whole number of at least 1")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight={self.weight} must lie in [0, 1]")

    def initial_state(self, num_classes: int) -> Tensors:
        """Return nothing: this step has no memory."""
        return {}

    def __call__(
        self, lesson: Lesson, state: Tensors, round: int, generator: np.random.Generator
    ) -> tuple[Lesson, Tensors]:
        """Return the lesson with the rows that are kept, in their order."""
        assert lesson.own is not None, "it was asked for"
        rows = lesson.rows
        combined = self.weight * lesson.soft_labels[rows] + (1 - self.weight) * lesson.own[rows]
        confidence, classes = combined.max(1)
        share = self._share(round)
        kept = torch.zeros(len(rows), dtype=torch.bool)
        for one_class in range(combined.shape[1]):
            members = torch.nonzero(classes == one_class).squeeze(1)
            best_first = members[torch.argsort(confidence[members], descending=True, stable=True)]
            kept[best_first[: rows_in(share, len(members))]] = True
        return replace(lesson, rows=rows[kept]), state

    def _share(self, round: int) -> float:
        if round >= self.num_rounds:
            return 1.0
        return self.start + (1 - self.start) * max(0, round - 1) / (self.num_rounds - 1)
