"""How sure a mean is: the bootstrap."""

from collections.abc import Callable, Sequence

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
    return _percentiles(values.double()[drawn].mean(dim=1))


def interval_of_ratio(numerators: Tensor, denominators: Tensor, generator: np.random.Generator) -> tuple[float, float]:
    """Bootstrap the 95 % confidence interval of a ratio of means of pairs, both ``[n]``; pairs are drawn together."""
    drawn = torch.from_numpy(generator.integers(len(numerators), size=(RESAMPLES, len(numerators))))
    return _percentiles(numerators.double()[drawn].mean(dim=1) / denominators.double()[drawn].mean(dim=1))


def interval_of_groups(
    statistic: Callable[[Tensor, Tensor], Tensor],
    groups: Sequence[tuple[Tensor, Tensor]],
    generator: np.random.Generator,
) -> tuple[float, float]:
    """Bootstrap the 95 % confidence interval of a statistic of two samples, resampled group by group.

    Parameters
    ----------
    statistic : Callable[[Tensor, Tensor], Tensor]
        From resamples of the first and the second sample, ``[B, m]`` and ``[B, n]``, to ``[B]``.
    groups : Sequence[tuple[Tensor, Tensor]]
        For each group, of both samples, its values: ``[m_g]`` and ``[n_g]``, at least one of each.
    generator : np.random.Generator
        Draws the resamples.
    """
    first, second = (
        torch.cat([_resamples(values, generator) for values in side], dim=1) for side in zip(*groups, strict=True)
    )
    return _percentiles(statistic(first, second))


def _resamples(values: Tensor, generator: np.random.Generator) -> Tensor:
    return values[torch.from_numpy(generator.integers(len(values), size=(RESAMPLES, len(values))))]


def _percentiles(statistics: Tensor) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = torch.quantile(statistics.double(), torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high
