"""Memory of what is large: pages that come cheaply, and things that are let go of one by one."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Item = TypeVar("Item")


def empty(*shape: int, dtype: torch.dtype) -> Tensor:
    """Return a tensor with any content, in large pages, for which NumPy asks the system and torch does not."""
    return torch.from_numpy(np.empty(shape, _numpy_type(dtype)))


def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
    """Return zeros; the memory is taken only where something else is written."""
    return torch.from_numpy(np.zeros(shape, _numpy_type(dtype)))


def given_up(items: Iterable[Item]) -> Iterator[Item]:
    """Hand out items in order and hold none of them any longer, so that what nobody else holds is freed at once."""
    left = list(items)
    # Or the list that it came as would hold them all.
    del items
    left.reverse()
    while left:
        yield left.pop()


def _numpy_type(dtype: torch.dtype) -> "np.dtype[np.generic]":
    return torch.empty(0, dtype=dtype).numpy().dtype
