"""Use a fresh random part of the transfer set in each round, as FedMD and DS-FL do."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedfuse.transfer.policy import Past
from fedfuse.transfer.share import rows_in


@dataclass(frozen=True)
class RandomSubset:
    """A random share of the transfer set, drawn anew each round: fewer bytes, the same set over many rounds.

    Parameters
    ----------
    fraction : float
        The share to draw, in ``(0, 1]``; rounded up.

    Raises
    ------
    ValueError
        If the fraction is out of range.
    """

    fraction: float = 0.5
    looks_back: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction={self.fraction} must lie in (0, 1]")

    def __call__(self, past: Past, generator: np.random.Generator) -> Tensor:
        """Return the drawn row numbers, ascending."""
        number = rows_in(self.fraction, past.num_samples)
        return torch.from_numpy(np.sort(generator.choice(past.num_samples, size=number, replace=False)))

    def most_rows(self, num_samples: int) -> int:
        """See `TransferPolicy.most_rows`."""
        return rows_in(self.fraction, num_samples)
