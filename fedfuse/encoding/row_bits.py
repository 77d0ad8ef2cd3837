"""Rows of the transfer set as a bit for each sample: an eighth of a byte instead of four or eight."""

import numpy as np
import torch
from torch import Tensor

from fedfuse.knowledge import InvalidKnowledgeError


def to_bits(rows: Tensor, num_transfer: int | None = None) -> Tensor:
    """Write ascending rows ``[R]`` as uint8 ``[ceil(M / 8)]``; without M, up to the last of them."""
    size = (int(rows[-1]) + 1 if len(rows) else 0) if num_transfer is None else num_transfer
    chosen = np.zeros(size, dtype=np.uint8)
    chosen[rows.numpy()] = 1
    return torch.from_numpy(np.packbits(chosen, bitorder="little"))


def from_bits(bits: Tensor, num_transfer: int | None = None) -> Tensor:
    """Read int64 rows ``[R]``, ascending.

    Raises
    ------
    InvalidKnowledgeError
        If these are no bits, or not those of M samples, where M is known.
    """
    if bits.dtype != torch.uint8 or bits.ndim != 1:
        raise InvalidKnowledgeError("rows are not written as bits")
    rows = torch.from_numpy(np.flatnonzero(np.unpackbits(bits.numpy(), bitorder="little")))
    if num_transfer is not None:
        beyond = len(rows) > 0 and int(rows[-1]) >= num_transfer
        if len(bits) != (num_transfer + 7) // 8 or beyond:
            raise InvalidKnowledgeError(f"rows are not the bits of {num_transfer} transfer samples")
    return rows
