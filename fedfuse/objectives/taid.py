"""Temporally adaptive interpolated distillation (Shing et al., ICLR 2025, arXiv 2501.16937)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedfuse.fusion import SMALLEST_PROBABILITY
from fedfuse.models.outputs import Outputs
from fedfuse.objectives.objective import Batch, State

# Keeps the relative change of the loss finite where the loss was zero.
SMALLEST_LOSS = 1e-15


@dataclass(frozen=True)
class TAID:
    r"""Distillation from a target that moves, step by step, from the student's own answer to the soft labels.

    .. math::

        p_t &= softmax\left((1 - t)\, z + t \log p\right) \\
        L &= -\sum_c p_{t,c} \log softmax(z)_c

    The target holds the student's logits z as constants, so the gradient is that of the divergence from it. After
    each step but the first, t grows, the faster the more the loss fell, and never stays below a line from start to
    end:

    .. math::

        m &\leftarrow \beta m + (1 - \beta) (L_{before} - L) / L_{before} \\
        t &\leftarrow \min\left(end,\; \max\left(start + (end - start)\, steps / num\_steps,\;
        t + \alpha\, sigmoid(m) (1 - t)\right)\right)

    L is there the mean over the batch, without weights of samples. Steps are those of one client over all rounds: t,
    m, L and the steps so far are its own memory, and a client that is often away stays close to itself for longer.

    Parameters
    ----------
    start, end : float
        Where t starts and ends, ``0 <= start <= end <= 1``. With both 1 this has the gradient of KD.
    alpha : float
        How far t can grow in a step beside the line, not negative. At its default t hardly leaves the line.
    beta : float
        How long the change of the loss is remembered, from 0 to below 1.
    num_steps : int
        After how many steps the line reaches its end, at least 1.

    Raises
    ------
    ValueError
        If a parameter is out of its range.
    """

    start: float = 0.4
    end: float = 1.0
    alpha: float = 5e-4
    beta: float = 0.99
    num_steps: int = 400
    needs: ClassVar[frozenset[str]] = frozenset({"soft_labels"})
    per_sample: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.start <= 1:
            raise ValueError(f"start={self.start} must be from 0 to 1")
        if not self.start <= self.end <= 1:
            raise ValueError(f"end={self.end} must be from start={self.start} to 1")
        if not 0 <= self.alpha < float("inf"):
            raise ValueError(f"alpha={self.alpha} must be finite and not negative")
        if not 0 <= self.beta < 1:
            raise ValueError(f"beta={self.beta} must be from 0 to below 1")
        if not (isinstance(self.num_steps, int) and self.num_steps >= 1):
            raise ValueError(f"num_steps={self.num_steps} must be a whole number of at least 1")

    def initial_state(self) -> State:
        """Return t at its start, and nothing known of the loss; float64 whatever models are, so that steps add up."""
        return {
            "t": torch.tensor(self.start, dtype=torch.float64),
            "momentum": torch.tensor(0.0, dtype=torch.float64),
            "previous_loss": torch.tensor(0.0, dtype=torch.float64),
            "steps": torch.tensor(0),
        }

    def __call__(self, outputs: Outputs, batch: Batch, mask: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the cross-entropy of every sample with its target, ``[B]``; a batch of padding is no step."""
        log_soft_labels = torch.log(batch["soft_labels"].clamp_min(SMALLEST_PROBABILITY))
        t = state["t"].to(outputs.logits.dtype)
        target = torch.softmax((1 - t) * outputs.logits.detach() + t * log_soft_labels, dim=1)
        losses = -(target * torch.log_softmax(outputs.logits, dim=1)).sum(1)
        mean = torch.where(mask, losses.detach(), 0).double().sum() / mask.sum().clamp_min(1)
        after = self._next(mean, state)
        is_step = mask.any()
        return losses, {name: torch.where(is_step, value, state[name]) for name, value in after.items()}

    def _next(self, loss: Tensor, state: State) -> dict[str, Tensor]:
        before, steps = state["previous_loss"], state["steps"] + 1
        change = (before - loss) / (before + SMALLEST_LOSS)
        momentum = self.beta * state["momentum"] + (1 - self.beta) * change
        line = self.start + (self.end - self.start) * steps.double() / self.num_steps
        adapted = state["t"] + self.alpha * torch.sigmoid(momentum) * (1 - state["t"])
        t = torch.maximum(line, adapted).clamp_max(self.end)
        # The first step has no loss before it to compare with.
        is_first = state["steps"] == 0
        return {
            "t": torch.where(is_first, state["t"], t),
            "momentum": torch.where(is_first, state["momentum"], momentum),
            "previous_loss": loss,
            "steps": steps,
        }
