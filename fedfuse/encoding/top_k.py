"""The likeliest classes only."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedfuse.encoding.class_numbers import bytes_of_a_class, read_classes, write_classes
from fedfuse.encoding.levels import to_levels
from fedfuse.encoding.quantised import Quantised
from fedfuse.knowledge import InvalidKnowledgeError

TOTAL = 255


@dataclass(frozen=True)
class _TopK:
    k: int

    def kept(self, num_classes: int) -> int:
        return min(self.k, num_classes)

    def width(self, num_classes: int) -> int:
        return self.kept(num_classes) * (bytes_of_a_class(num_classes) + 1)

    def quantise(self, soft_labels: NDArray[np.float64]) -> NDArray[np.uint8]:
        num_classes = soft_labels.shape[1]
        kept = self.kept(num_classes)
        order = np.argsort(-soft_labels, axis=1, kind="stable")
        ranked = np.take_along_axis(soft_labels, order, 1)
        parts = np.hstack([ranked[:, :kept], ranked[:, kept:].sum(1, keepdims=True)])
        levels = to_levels(parts, TOTAL)[:, :kept]
        return np.hstack([write_classes(order[:, :kept], num_classes), levels.astype(np.uint8)])

    def restore(self, table: NDArray[np.uint8], num_classes: int) -> NDArray[np.float64]:
        kept = self.kept(num_classes)
        split = kept * bytes_of_a_class(num_classes)
        classes, levels = read_classes(table[:, :split], num_classes), table[:, split:].astype(np.int64)
        rest = TOTAL - levels.sum(1, keepdims=True)
        ascending = np.sort(classes, axis=1)
        if (rest < 0).any() or (ascending[:, 1:] == ascending[:, :-1]).any():
            raise InvalidKnowledgeError("soft labels name a class twice, or more levels than there are")
        if kept == num_classes and (rest > 0).any():
            raise InvalidKnowledgeError("soft labels leave something to classes that there are not")
        soft_labels = np.repeat(rest / max(num_classes - kept, 1) / TOTAL, num_classes, axis=1)
        np.put_along_axis(soft_labels, classes, levels / TOTAL, 1)
        return soft_labels


def top_k(k: int, compressed: bool) -> Quantised:
    """Write the k likeliest classes in 255ths, 2 bytes each; what is left over is spread evenly over the others.

    Rows sum to one. A class that is kept is off by less than 1/255, and so is the sum of all others; of classes that
    are equally likely the first are kept.

    Parameters
    ----------
    k : int
        How many classes are kept, at least 1.
    compressed : bool
        Whether the bytes are entropy-coded.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k={k!r} must be a whole number of at least 1")
    return Quantised(_TopK(k), compressed)
