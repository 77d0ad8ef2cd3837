"""Learn where the fused knowledge is the surer one, in the style of BSD (Zhu et al., ICCV 2023, arXiv 2307.12574)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from fedfuse.knowledge import Tensors
from fedfuse.transfer.lesson import Lesson
from fedfuse.transfer.margin import margins


@dataclass(frozen=True)
class WhereBetter:
    """Learn only from samples that the fused soft label is surer of than the client itself: BSD-style.

    Sure is who has the larger margin between the two highest probabilities. If the client is the surer one everywhere,
    it learns from the one sample where it is so by least. In BSD two peers teach each other, each where its
    cross-entropy against true labels is the smaller; transfer samples have no labels, hence margins, and this is one
    direction of the two.
    """

    needs_own: ClassVar[bool] = True
    weighs: ClassVar[bool] = False
    changes_inputs: ClassVar[bool] = False
    needs_domains: ClassVar[bool] = False

    def initial_state(self, num_classes: int) -> Tensors:
        """Return nothing: this step has no memory."""
        return {}

    def __call__(
        self, lesson: Lesson, state: Tensors, round: int, generator: np.random.Generator
    ) -> tuple[Lesson, Tensors]:
        """Return the lesson with the rows that are kept, in their order."""
        assert lesson.own is not None, "it was asked for"
        rows = lesson.rows
        lead = margins(lesson.soft_labels[rows]) - margins(lesson.own[rows])
        better = lead > 0
        if len(rows) and not better.any():
            better[torch.argmax(lead)] = True
        return replace(lesson, rows=rows[better]), state
