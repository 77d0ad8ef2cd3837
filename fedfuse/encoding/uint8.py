"""Soft labels in whole levels, a byte for each class."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedfuse.encoding.class_numbers import bytes_of_a_class, read_classes, write_classes
from fedfuse.encoding.levels import to_levels
from fedfuse.encoding.quantised import Quantised
from fedfuse.knowledge import InvalidKnowledgeError

MOST_LEVELS = 510


@dataclass(frozen=True)
class _Uint8:
    total: int

    def width(self, num_classes: int) -> int:
        return bytes_of_a_class(num_classes) + num_classes - 1

    def quantise(self, soft_labels: NDArray[np.float64]) -> NDArray[np.uint8]:
        levels = to_levels(soft_labels, self.total)
        num_samples, num_classes = levels.shape
        likeliest = levels.argmax(1)[:, np.newaxis]
        others = levels[np.arange(num_classes) != likeliest].reshape(num_samples, num_classes - 1)
        return np.hstack([write_classes(likeliest, num_classes), others.astype(np.uint8)])

    def restore(self, table: NDArray[np.uint8], num_classes: int) -> NDArray[np.float64]:
        split = bytes_of_a_class(num_classes)
        likeliest, others = read_classes(table[:, :split], num_classes), table[:, split:].astype(np.int64)
        rest = self.total - others.sum(1, keepdims=True)
        if (rest < 0).any():
            raise InvalidKnowledgeError("the levels of soft labels are more than there are")
        levels = np.empty((len(table), num_classes), dtype=np.int64)
        levels[np.arange(num_classes) != likeliest] = others.ravel()
        np.put_along_axis(levels, likeliest, rest, 1)
        return levels / self.total


def uint8(levels: int, compressed: bool) -> Quantised:
    """Write every probability in 510ths, or fewer levels, a byte for each class; rows sum to one.

    Rows are rounded by largest remainders, so each probability is off by less than a level. A byte names the likeliest
    class, which has what is left over; no other one can be above one half, so a byte is enough for up to 510 levels.

    Parameters
    ----------
    levels : int
        What a row sums to, from 1 to 510. Fewer compress better.
    compressed : bool
        Whether the bytes are entropy-coded.
    """
    if isinstance(levels, bool) or not isinstance(levels, int) or not 1 <= levels <= MOST_LEVELS:
        raise ValueError(f"levels={levels!r} must be a whole number from 1 to {MOST_LEVELS}")
    return Quantised(_Uint8(levels), compressed)
