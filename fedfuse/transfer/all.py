"""Use the whole transfer set in every round."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedfuse.transfer.policy import Past


@dataclass(frozen=True)
class AllRows:
    """Every transfer sample, in every round."""

    looks_back: ClassVar[bool] = False

    def __call__(self, past: Past, generator: np.random.Generator) -> Tensor:
        """Return all row numbers."""
        return torch.arange(past.num_samples)

    def most_rows(self, num_samples: int) -> int:
        """See `TransferPolicy.most_rows`."""
        return num_samples
