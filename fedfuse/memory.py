"""Large tensors in memory that the system hands out in large pages, which costs a fraction of small ones."""

import numpy as np
import torch
from torch import Tensor


def empty(*shape: int, dtype: torch.dtype) -> Tensor:
    """Return a tensor with any content. NumPy asks the system for large pages; torch does not."""
    return torch.from_numpy(np.empty(shape, _numpy_type(dtype)))


def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
    """Return zeros; the memory is taken only where something else is written."""
    return torch.from_numpy(np.zeros(shape, _numpy_type(dtype)))


def _numpy_type(dtype: torch.dtype) -> "np.dtype[np.generic]":
    return torch.empty(0, dtype=dtype).numpy().dtype
