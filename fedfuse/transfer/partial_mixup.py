"""Mix a few transfer samples with others: partial mixup (Choi et al., WACV 2023, arXiv 2211.03946)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedfuse.data.samples import as_numbers
from fedfuse.knowledge import Tensors
from fedfuse.transfer.lesson import Lesson


@dataclass(frozen=True)
class PartialMixup:
    r"""Mix a small share of the samples with another one each, and their soft labels with them: partial mixup.

    .. math:: x = \lambda x_i + (1 - \lambda) x_j, \qquad p = \lambda p_i + (1 - \lambda) p_j, \qquad
              \lambda \sim Beta(\beta, \beta)

    The mixed soft label is an approximation: nobody is asked about the mixed sample, of which the models of the
    federation might well say something else. The client's own answers, the weights of samples and their domains are
    mixed alike. The share is exact: rows are drawn without replacement, their partners from all the other rows, and
    every pair has a :math:`\lambda` of its own. The mixed samples are the client's own, so the stacked runner holds the
    transfer set once for each client.

    Parameters
    ----------
    fraction : float
        The share of the rows that is mixed, in ``[0, 1]``; rounded to the nearest number. A row that stands twice
        counts once.
    beta : float
        Above 0. Higher mixes more evenly, 1 draws :math:`\lambda` uniformly.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """

    fraction: float = 0.1
    beta: float = 1.0
    needs_own: ClassVar[bool] = False
    weighs: ClassVar[bool] = False
    changes_inputs: ClassVar[bool] = True
    needs_domains: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"fraction={self.fraction} must lie in [0, 1]")
        if not 0 < self.beta < np.inf:
            raise ValueError(f"beta={self.beta} must be positive and finite")

    def initial_state(self, num_classes: int) -> Tensors:
        """Return nothing: this step has no memory."""
        return {}

    def __call__(
        self, lesson: Lesson, state: Tensors, round: int, generator: np.random.Generator
    ) -> tuple[Lesson, Tensors]:
        """Return the lesson with mixed samples in the place of some."""
        rows = torch.from_numpy(np.unique(lesson.rows.numpy()))
        number = _number_mixed(self.fraction, len(rows))
        places = generator.permutation(len(rows))[:number]
        # Any place but its own: those from there on move up by one.
        partners = generator.integers(max(1, len(rows) - 1), size=number)
        partners += partners >= places
        first, second = rows[torch.from_numpy(places)], rows[torch.from_numpy(partners)]
        amounts = torch.from_numpy(generator.beta(self.beta, self.beta, size=number))

        def mixed(values: Tensor) -> Tensor:
            amount = amounts.to(values.dtype).reshape(-1, *[1] * (values.ndim - 1))
            return values.index_copy(0, first, amount * values[first] + (1 - amount) * values[second])

        inputs = lesson.inputs
        if inputs.dtype == torch.uint8:
            inputs = as_numbers(inputs, lesson.soft_labels.dtype)
        changed = replace(
            lesson,
            inputs=mixed(inputs),
            soft_labels=mixed(lesson.soft_labels),
            own=None if lesson.own is None else mixed(lesson.own),
            weights=None if lesson.weights is None else mixed(lesson.weights),
            domains=None if lesson.domains is None else mixed(lesson.domains),
        )
        return changed, state


def _number_mixed(fraction: float, number: int) -> int:
    # A single row has no partner.
    return round(fraction * number) if number > 1 else 0
