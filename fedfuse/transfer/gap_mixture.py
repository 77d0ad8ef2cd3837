"""Learn more where the client is behind, in the style of DDK (Liu et al., NeurIPS 2024, arXiv 2407.16154)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedfuse.fusion import SMALLEST_PROBABILITY
from fedfuse.knowledge import Tensors
from fedfuse.transfer.lesson import Lesson

LARGEST_GAP = 5.0
KINDS = ("class", "domain")


@dataclass(frozen=True)
class GapMixture:
    r"""Draw more samples of the classes or domains in which the client is far behind the fused soft labels: DDK-style.

    .. math::

        r' = \alpha \frac{\psi}{\sum_k \psi_k} + \frac{1 - \alpha}{K}, \qquad
        \psi_k = r_k \exp(l^S_k / l^T_k), \qquad l_k = \exp(\text{mean cross-entropy of kind } k)

    The K kinds that are mixed are the classes, or the domains of the transfer set. A sample's class is the argmax of
    its fused soft label; its domain is what the data source says, of a mixed sample the one it has most of. Against
    its class, :math:`l^S` judges the client's own answers and :math:`l^T` the fused soft labels; their ratio is cut off
    at 5, and 1 for a kind without samples. The first mixture is the softmax of the ratios. Each round learns from as
    many rows as came in, drawn with replacement: the kind by r, among the kinds that have samples, then any sample of
    the kind alike.

    DDK mixes domains, with losses on labelled samples kept for validation. Clients are not told the labels of transfer
    samples, so the fused soft label takes the place of the label. The client remembers r, and moves it on each time
    that it is taught.

    Parameters
    ----------
    alpha : float
        How much of the mixture follows the gaps, in ``[0, 1)``; the rest is for all kinds alike.
    by : str
        What is mixed, ``"class"`` or ``"domain"``; the latter needs a transfer set that has domains.

    Raises
    ------
    ValueError
        If alpha is out of range, or there is no such kind.
    """

    alpha: float = 0.5
    by: str = "class"
    needs_own: ClassVar[bool] = True
    weighs: ClassVar[bool] = False
    changes_inputs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < 1:
            raise ValueError(f"alpha={self.alpha} must lie in [0, 1)")
        if self.by not in KINDS:
            raise ValueError(f"by={self.by} must be {' or '.join(KINDS)}")

    @property
    def needs_domains(self) -> bool:
        """Whether domains are mixed."""
        return self.by == "domain"

    def initial_state(self, num_classes: int) -> Tensors:
        """Return an empty mixture: zeros ``[C]``, or ``[0]`` by domain, as the first lesson says how many there are."""
        return {"mixture": torch.zeros(0 if self.needs_domains else num_classes, dtype=torch.float64)}

    def __call__(
        self, lesson: Lesson, state: Tensors, round: int, generator: np.random.Generator
    ) -> tuple[Lesson, Tensors]:
        """Return the lesson with the drawn rows, and the next mixture."""
        rows, mixture = lesson.rows, state["mixture"]
        if not len(rows):
            return lesson, state
        shares = lesson.domains if self.needs_domains else lesson.soft_labels
        assert shares is not None, "compatibility is checked before a run"
        kinds = shares[rows].argmax(1)
        sizes = torch.bincount(kinds, minlength=shares.shape[1])
        gaps = _gaps(lesson, kinds, sizes)
        if mixture.any():
            urgent = mixture * torch.exp(gaps)
            mixture = self.alpha * urgent / urgent.sum() + (1 - self.alpha) / len(sizes)
        else:
            mixture = torch.softmax(gaps, dim=0)
        chances = mixture[kinds] / sizes[kinds]
        drawn = generator.choice(len(rows), size=len(rows), p=(chances / chances.sum()).numpy())
        return replace(lesson, rows=rows[torch.from_numpy(drawn)]), {"mixture": mixture}


def _gaps(lesson: Lesson, kinds: Tensor, sizes: Tensor) -> Tensor:
    """Return for each kind the ratio of the client's loss to that of the fused soft labels, float64 ``[K]``."""
    assert lesson.own is not None, "it was asked for"
    fused, own = lesson.soft_labels[lesson.rows], lesson.own[lesson.rows]
    classes = fused.argmax(1)
    # A quotient of exponentials is the exponential of a difference, which cannot overflow on the way.
    difference = _log_likelihood(fused, classes) - _log_likelihood(own, classes)
    total = torch.zeros(len(sizes), dtype=torch.float64).index_add(0, kinds, difference)
    return torch.exp(total / sizes.clamp_min(1)).clamp_max(LARGEST_GAP)


def _log_likelihood(probabilities: Tensor, classes: Tensor) -> Tensor:
    chosen = probabilities.gather(1, classes.unsqueeze(1)).squeeze(1)
    return chosen.to(torch.float64).clamp_min(SMALLEST_PROBABILITY).log()
