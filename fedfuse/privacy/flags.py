"""A user's own judgement of which transfer samples may tell of private data."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedfuse.errors import ConfigurationError


def read_flags(flags: str | Sequence[int], num_samples: int) -> Tensor:
    """Return a likelihood for each transfer sample.

    Parameters
    ----------
    flags : str or Sequence[int]
        The rows of samples that surely may, or a file with a number in [0, 1] for each sample: ``.npy``, or text with
        a number a line.
    num_samples : int
        The size of the transfer set.

    Returns
    -------
    Tensor
        float64 ``[num_samples]``.

    Raises
    ------
    ConfigurationError
        If the file cannot be read, or has another length; a number lies outside [0, 1]; or there is no such row.
    """
    if isinstance(flags, str):
        return _from_file(flags, num_samples)
    likelihood = torch.zeros(num_samples, dtype=torch.float64)
    for row in flags:
        if isinstance(row, bool) or not isinstance(row, int) or not 0 <= row < num_samples:
            raise ConfigurationError(f"flags: {row!r} is no row of the {num_samples} transfer samples.")
        likelihood[row] = 1
    return likelihood


@functools.lru_cache(maxsize=4)
def _from_file(path: str, num_samples: int) -> Tensor:
    try:
        numbers = np.load(path) if Path(path).suffix == ".npy" else np.loadtxt(path, ndmin=1)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"flags={path} cannot be read: {' '.join(str(error).split())}.") from error
    if numbers.shape != (num_samples,):
        raise ConfigurationError(f"flags={path} has shape {list(numbers.shape)}, not [{num_samples}].")
    outside = numbers[~((numbers >= 0) & (numbers <= 1))]
    if len(outside):
        raise ConfigurationError(f"flags={path}: a likelihood must be in [0, 1], not {outside[0]:g}.")
    return torch.from_numpy(numbers.astype(np.float64))
