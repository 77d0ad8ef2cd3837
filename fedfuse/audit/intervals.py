"""How sure a mean is: the bootstrap."""

import numpy as np
import torch
from torch import Tensor

RESAMPLES = 2000
CONFIDENCE = 0.95


def interval_of_mean(values: Tensor, generator: np.random.Generator) -> tuple[float, float]:
    """Bootstrap the 95 % confidence interval of a mean: percentiles of the means of resamples (Efron, 1979).

    Parameters
    ----------
    values : Tensor
        ``[n]``, at least one.
    generator : np.random.Generator
        Draws the resamples.
    """
    drawn = torch.from_numpy(generator.integers(len(values), size=(RESAMPLES, len(values))))
    means = values.double()[drawn].mean(dim=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high
