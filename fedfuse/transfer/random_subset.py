"""Use a fresh random part of the transfer set in each round, as FedMD and DS-FL do."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


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

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction={self.fraction} must lie in (0, 1]")

    def __call__(self, num_samples: int, generator: np.random.Generator) -> Tensor:
        """Return the drawn row numbers, ascending."""
        # The tiny subtraction keeps 0.07 * 100 = 7.000000000000001 from becoming eight rows.
        number = max(1, math.ceil(self.fraction * num_samples - 1e-9))
        return torch.from_numpy(np.sort(generator.choice(num_samples, size=number, replace=False)))
