"""Soft labels in half precision."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedfuse.encoding.quantised import Quantised


@dataclass(frozen=True)
class _Float16:
    def width(self, num_classes: int) -> int:
        return 2 * num_classes

    def quantise(self, soft_labels: NDArray[np.float64]) -> NDArray[np.uint8]:
        return np.ascontiguousarray(soft_labels.astype("<f2")).view(np.uint8)

    def restore(self, table: NDArray[np.uint8], num_classes: int) -> NDArray[np.float64]:
        return np.ascontiguousarray(table).view("<f2").astype(np.float64)


def float16(compressed: bool) -> Quantised:
    """Write every probability in half precision, 2 bytes.

    Each is off by a 2,048th of itself at most, and so is the sum of a row.

    Parameters
    ----------
    compressed : bool
        Whether the bytes are entropy-coded.
    """
    return Quantised(_Float16(), compressed)
