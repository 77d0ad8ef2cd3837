"""Knowledge distillation with a temperature (Hinton, Vinyals and Dean, 2015, arXiv 1503.02531)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedfuse.fusion import SMALLEST_PROBABILITY
from fedfuse.models.outputs import Outputs
from fedfuse.objectives.objective import Batch, State


@dataclass(frozen=True)
class KD:
    r"""Knowledge distillation: Kullback-Leibler divergence from the soft labels at a temperature, times T squared.

    .. math:: T^2 \, KL\left(softmax(\log p / T) \,\|\, softmax(z / T)\right)

    Soft labels p enter as log-probabilities, which give the same result as the teacher's logits would. The factor
    T squared, always there, keeps the size of the gradient independent of the temperature.

    Parameters
    ----------
    temperature : float
        T, positive. 1 matches the soft labels as they came; higher looks more at the unlikely classes.

    Raises
    ------
    ValueError
        If the temperature is not positive and finite.
    """

    temperature: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset({"soft_labels"})
    per_sample: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature={self.temperature} must be positive and finite")

    def initial_state(self) -> State:
        """Return nothing: this loss has no memory."""
        return {}

    def __call__(self, outputs: Outputs, batch: Batch, mask: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the divergence of every sample, ``[B]``."""
        log_target = torch.log(batch["soft_labels"].clamp_min(SMALLEST_PROBABILITY)) / self.temperature
        log_target = torch.log_softmax(log_target, dim=1)
        log_student = torch.log_softmax(outputs.logits / self.temperature, dim=1)
        divergence = (log_target.exp() * (log_target - log_student)).sum(1)
        return self.temperature**2 * divergence, state
