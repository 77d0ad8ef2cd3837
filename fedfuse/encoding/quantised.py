"""Soft labels as a table of bytes, a row for each sample: how it is packed into a message, whatever the bytes say."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fedfuse.encoding.compression import compress, decompress
from fedfuse.encoding.row_bits import from_bits, to_bits
from fedfuse.knowledge import InvalidKnowledgeError, Tensors


class Quantiser(Protocol):
    """What the bytes of a sample say."""

    def width(self, num_classes: int) -> int:
        """Return W, the number of bytes of a sample."""
        ...

    def quantise(self, soft_labels: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Write probabilities ``[R, C]``, whose rows sum to one, as bytes ``[R, W]``."""
        ...

    def restore(self, table: NDArray[np.uint8], num_classes: int) -> NDArray[np.float64]:
        """Read bytes ``[R, W]`` as probabilities ``[R, C]``; `InvalidKnowledgeError` for what nobody writes."""
        ...


@dataclass(frozen=True)
class Quantised:
    """An encoding that writes a table of bytes and compresses it.

    Parameters
    ----------
    quantiser : Quantiser
        What the bytes say.
    compressed : bool
        Whether they are entropy-coded, without further loss.
    """

    quantiser: Quantiser
    compressed: bool = True
    compact = True

    def encode(self, tensors: Tensors, num_transfer: int) -> Tensors:
        """See `fedfuse.encoding.encoding.Encoding.encode`: ``code`` uint8, and ``rows`` as bits."""
        soft_labels = tensors["soft_labels"].numpy().astype(np.float64).clip(min=0)
        sums = soft_labels.sum(1, keepdims=True)
        if not (np.isfinite(soft_labels).all() and (sums > 0).all()):
            raise InvalidKnowledgeError("soft labels are no probabilities")
        table = self.quantiser.quantise(soft_labels / sums)
        # Byte by byte of all samples: what is alike stands together, and compresses better.
        plain = table.T.tobytes()
        code = compress(plain) if self.compressed else plain
        encoded = {"code": torch.from_numpy(np.frombuffer(code, dtype=np.uint8).copy())}
        if "rows" in tensors:
            encoded["rows"] = to_bits(tensors["rows"], num_transfer)
        return encoded

    def decode(self, tensors: Tensors, num_transfer: int, num_classes: int, dtype: torch.dtype) -> Tensors:
        """See `fedfuse.encoding.encoding.Encoding.decode`."""
        if not {"code"} <= set(tensors) <= {"code", "rows"}:
            raise InvalidKnowledgeError(f"encoded soft labels came as {sorted(tensors)}")
        if tensors["code"].dtype != torch.uint8 or tensors["code"].ndim != 1:
            raise InvalidKnowledgeError("encoded soft labels are no bytes")
        rows = from_bits(tensors["rows"], num_transfer) if "rows" in tensors else None
        height, width = num_transfer if rows is None else len(rows), self.quantiser.width(num_classes)
        code = tensors["code"].numpy().tobytes()
        plain = decompress(code, height * width) if self.compressed else code
        if len(plain) != height * width:
            raise InvalidKnowledgeError(f"encoded soft labels have {len(plain)} bytes, expected {height * width}")
        table = np.frombuffer(plain, dtype=np.uint8).reshape(width, height).T
        soft_labels = self.quantiser.restore(table, num_classes)
        if not np.isfinite(soft_labels).all():
            raise InvalidKnowledgeError("soft labels are not finite")
        decoded = {"soft_labels": torch.from_numpy(soft_labels).to(dtype)}
        return decoded if rows is None else {**decoded, "rows": rows.to(torch.int32)}
