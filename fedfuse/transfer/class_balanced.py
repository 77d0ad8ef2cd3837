"""Ask for equally many transfer samples of each class, as far as the answers so far can tell the classes."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedfuse.transfer.policy import Past
from fedfuse.transfer.share import rows_in


@dataclass(frozen=True)
class ClassBalanced:
    """A share of the transfer set with equally many samples of each class that the past answers predict.

    Samples that nobody answered yet are a class of their own, so a first round is a random one. What a class is too
    small for goes to the others. Inside a class the draw is random, and so is which classes get the rows that are left
    over.

    Parameters
    ----------
    fraction : float
        The share to ask for, in ``(0, 1]``; rounded up.

    Raises
    ------
    ValueError
        If the fraction is out of range.
    """

    fraction: float = 0.5
    looks_back: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction={self.fraction} must lie in (0, 1]")

    def __call__(self, past: Past, generator: np.random.Generator) -> Tensor:
        """Return the drawn row numbers, ascending."""
        shuffled = generator.permutation(past.num_samples)
        classes = _classes(past)[shuffled]
        num_classes = classes.max() + 1
        # Deal out in turns: the first of each class, then the second of each, until there are enough.
        by_class = np.argsort(classes, kind="stable")
        sizes = np.bincount(classes, minlength=num_classes)
        starts = np.cumsum(sizes) - sizes
        turn = np.empty_like(by_class)
        turn[by_class] = np.arange(len(classes)) - np.repeat(starts, sizes)
        place_in_turn = generator.permutation(num_classes)[classes]
        dealt = shuffled[np.lexsort((place_in_turn, turn))]
        return torch.from_numpy(np.sort(dealt[: rows_in(self.fraction, past.num_samples)]))

    def most_rows(self, num_samples: int) -> int:
        """See `TransferPolicy.most_rows`."""
        return rows_in(self.fraction, num_samples)


def _classes(past: Past) -> np.ndarray:
    """Return the predicted class of each sample, int64 ``[M]``; of one that nobody answered, a further number."""
    if past.answers is None:
        return np.zeros(past.num_samples, dtype=np.int64)
    predicted = torch.where(past.known, past.answers.argmax(1), past.answers.shape[1])
    return predicted.numpy()
