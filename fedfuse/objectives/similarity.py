"""Keep which samples are alike (SP, Tung and Mori, ICCV 2019, arXiv 1907.09682), in probabilities."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedfuse.models.outputs import Outputs
from fedfuse.objectives.objective import Batch, State


@dataclass(frozen=True)
class SimilarityPreserving:
    r"""How alike the samples of a batch are, and its classes, in the answers and in the soft labels.

    .. math:: \frac{\lambda_s}{B} \left\| Q Q^\top - P P^\top \right\|_F^2
              + \frac{\lambda_c}{C} \left\| Q^\top Q - P^\top P \right\|_F^2

    with P and Q the soft labels and the answers, ``[B, C]``. In the paper's style: it compares activations of a hidden
    layer, each row of their products scaled to length 1, and divides by B squared. Probabilities need no scaling; both
    forms on them, divided by B and C, are those of multi-level logit distillation (Jin, Wang and Lin, CVPR 2023). The
    form of the classes sums over samples, so it grows with the square of the size of the batch.

    The first form does not tell which class is which, nor the second which sample: the loss is for use beside another
    one, for example in a sum with ``kd``.

    Parameters
    ----------
    samples : float
        The factor of the similarities between samples, not negative.
    classes : float
        The factor of the similarities between classes, not negative.

    Raises
    ------
    ValueError
        If a factor is negative or not finite.
    """

    samples: float = 0.1
    classes: float = 0.01
    needs: ClassVar[frozenset[str]] = frozenset({"soft_labels"})
    per_sample: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name, factor in (("samples", self.samples), ("classes", self.classes)):
            if not (math.isfinite(factor) and factor >= 0):
                raise ValueError(f"{name}={factor} must be finite and not negative")

    def initial_state(self) -> State:
        """Return nothing: this loss has no memory."""
        return {}

    def __call__(self, outputs: Outputs, batch: Batch, mask: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the loss of the batch, a scalar."""
        # A row of zeros is like no other row, and adds nothing to a class.
        real = mask.unsqueeze(1)
        target = torch.where(real, batch["soft_labels"], 0)
        student = torch.where(real, torch.softmax(outputs.logits, dim=1), 0)
        samples = (student @ student.T - target @ target.T).square().sum() / mask.sum().clamp_min(1)
        classes = (student.T @ student - target.T @ target).square().sum() / target.shape[1]
        return self.samples * samples + self.classes * classes, state
