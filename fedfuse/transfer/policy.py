"""Which transfer samples carry knowledge in a round, seen from the round loop."""

from typing import Protocol

import numpy as np
from torch import Tensor


class TransferPolicy(Protocol):
    """Choose the transfer samples of a round; the same ones for every client."""

    def __call__(self, num_samples: int, generator: np.random.Generator) -> Tensor:
        """Return ascending int64 row numbers of the transfer set, at least one."""
        ...
