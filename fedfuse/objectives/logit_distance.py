"""Match logits directly (Ba and Caruana, NeurIPS 2014, arXiv 1312.6184)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedfuse.fusion import SMALLEST_PROBABILITY
from fedfuse.models.outputs import Outputs
from fedfuse.objectives.objective import Batch, State

NORMS = ("squared", "absolute")


@dataclass(frozen=True)
class LogitDistance:
    r"""Squared or absolute difference of the logits from those of the soft labels, mean over the classes.

    .. math:: \frac{1}{C} \sum_c \left| (z_c - \bar z) - (\log p_c - \overline{\log p}) \right|^k, \quad k = 2
              \text{ or } 1

    In the paper's style, which takes the teacher's logits as they are. A soft label tells logits up to a constant in
    each row, so both sides are centred over the classes.

    Parameters
    ----------
    norm : str
        ``"squared"`` or ``"absolute"``; the latter minds a class that is far off less.

    Raises
    ------
    ValueError
        If the norm is neither.
    """

    norm: str = "squared"
    needs: ClassVar[frozenset[str]] = frozenset({"soft_labels"})
    per_sample: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ValueError(f"norm={self.norm} must be {' or '.join(NORMS)}")

    def initial_state(self) -> State:
        """Return nothing: this loss has no memory."""
        return {}

    def __call__(self, outputs: Outputs, batch: Batch, mask: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the mean difference of every sample, ``[B]``."""
        log_target = torch.log(batch["soft_labels"].clamp_min(SMALLEST_PROBABILITY))
        difference = outputs.logits - log_target
        difference = difference - difference.mean(1, keepdim=True)
        distance = difference.square() if self.norm == "squared" else difference.abs()
        return distance.mean(1), state
