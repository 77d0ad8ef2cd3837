"""Logit standardisation before distillation (Sun et al., CVPR 2024, arXiv 2403.01427)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedfuse.fusion import SMALLEST_PROBABILITY
from fedfuse.models.outputs import Outputs
from fedfuse.objectives.objective import Batch, Objective, State

SOFT_LABELS = ("soft_labels", "own_soft_labels")
# Logits that deviate by less are as good as equal: blown up to a deviation of 1, their noise would be learnt from.
SMALLEST_DEVIATION = 0.01


@dataclass(frozen=True)
class Standardised:
    r"""Another loss on standardised logits: only the pattern among the classes counts, not how sure anyone is.

    .. math:: Z(z) = \frac{z - mean(z)}{\max(std(z),\, 0.01)}

    over the classes of a row, with the unbiased standard deviation. The loss gets Z of the logits as logits, and the
    softmax of Z of the logarithm of the soft labels as soft labels. The floor takes the place of the paper's 1e-7
    beside the deviation: where classes are nearly equally likely, they stay so.

    With two classes nothing is left but which of them is likelier. With more than about 170, the smallest
    probability that losses tell from zero can cut off the least likely ones.

    Parameters
    ----------
    loss : Objective
        Any that learns from soft labels.

    Raises
    ------
    ValueError
        If the loss does not learn from soft labels.
    """

    loss: Objective

    def __post_init__(self) -> None:
        if "soft_labels" not in getattr(self.loss, "needs", ()):
            raise ValueError(f"loss={self.loss} must be an objective that learns from soft labels")

    @property
    def needs(self) -> frozenset[str]:
        """Return what the loss needs."""
        return self.loss.needs

    @property
    def per_sample(self) -> bool:
        """Return whether the loss is one for each sample."""
        return self.loss.per_sample

    def initial_state(self) -> State:
        """Return what the loss remembers."""
        return self.loss.initial_state()

    def __call__(self, outputs: Outputs, batch: Batch, mask: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the loss on what is standardised, and its next state."""
        standardised = {
            name: torch.softmax(_standardise(torch.log(batch[name].clamp_min(SMALLEST_PROBABILITY))), dim=1)
            for name in SOFT_LABELS
            if name in batch
        }
        outputs = outputs._replace(logits=_standardise(outputs.logits))
        return self.loss(outputs, {**batch, **standardised}, mask, state)


def _standardise(logits: Tensor) -> Tensor:
    # The floor comes before the root, which has no gradient at 0.
    deviation = logits.var(1, keepdim=True).clamp_min(SMALLEST_DEVIATION**2).sqrt()
    return (logits - logits.mean(1, keepdim=True)) / deviation
