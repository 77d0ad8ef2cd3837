"""What a client makes of fused soft labels before it learns from them: choose, weigh and change transfer samples."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from torch import Tensor

from fedfuse.knowledge import Tensors


@dataclass(frozen=True)
class Lesson:
    """Transfer samples with fused soft labels, as one client will learn from them in one round.

    Parameters
    ----------
    inputs : Tensor
        ``[M, *shape]``.
    soft_labels : Tensor
        Fused probabilities ``[M, C]``; rows that are not learnt from are uniform.
    rows : Tensor
        int64 ``[R]``: what an epoch visits; a row that stands twice is visited twice.
    own : Tensor or None
        What the client's own model answers before it learns, ``[M, C]``; where a step or the objective needs it.
    weights : Tensor or None
        How much each sample counts, ``[M]``; nothing means that all count alike.
    domains : Tensor or None
        How much of each sample is of each domain of the transfer set, ``[M, D]``: 0 and 1, but for samples that are
        mixed; where a step needs it.
    """

    inputs: Tensor
    soft_labels: Tensor
    rows: Tensor
    own: Tensor | None = None
    weights: Tensor | None = None
    domains: Tensor | None = None


class LessonStep(Protocol):
    """One thing that is done to a lesson; the next step gets what it returns.

    Attributes
    ----------
    needs_own : bool
        Whether it needs the client's own answers.
    weighs : bool
        Whether it weighs samples, which only an objective with a loss for each sample can heed.
    changes_inputs : bool
        Whether it makes samples that the transfer set does not have.
    """

    needs_own: ClassVar[bool]
    weighs: ClassVar[bool]
    changes_inputs: ClassVar[bool]

    @property
    def needs_domains(self) -> bool:
        """Whether it needs the domains of transfer samples, which not every transfer set has."""
        ...

    def initial_state(self, num_classes: int) -> Tensors:
        """Return what the step remembers from round to round (often nothing), as named tensors."""
        ...

    def __call__(
        self, lesson: Lesson, state: Tensors, round: int, generator: np.random.Generator
    ) -> tuple[Lesson, Tensors]:
        """Return the changed lesson and the next state; at least one row must be left."""
        ...
