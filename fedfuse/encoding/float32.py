"""Soft labels as they are computed."""

from dataclasses import dataclass

import torch

from fedfuse.knowledge import Tensors


@dataclass(frozen=True)
class Float32:
    """Leave every probability as it is computed: 4 bytes, or 8 with ``engine.precision=float64``."""

    compact = False

    def encode(self, tensors: Tensors, num_transfer: int) -> Tensors:
        """See `fedfuse.encoding.encoding.Encoding.encode`."""
        return tensors

    def decode(self, tensors: Tensors, num_transfer: int, num_classes: int, dtype: torch.dtype) -> Tensors:
        """See `fedfuse.encoding.encoding.Encoding.decode`; who uses them checks them."""
        return tensors


FLOAT32 = Float32()
