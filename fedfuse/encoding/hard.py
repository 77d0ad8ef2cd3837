"""Nothing but the likeliest class."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedfuse.encoding.class_numbers import bytes_of_a_class, read_classes, write_classes
from fedfuse.encoding.quantised import Quantised


@dataclass(frozen=True)
class _Hard:
    smoothing: float

    def width(self, num_classes: int) -> int:
        return bytes_of_a_class(num_classes)

    def quantise(self, soft_labels: NDArray[np.float64]) -> NDArray[np.uint8]:
        return write_classes(soft_labels.argmax(1)[:, np.newaxis], soft_labels.shape[1])

    def restore(self, table: NDArray[np.uint8], num_classes: int) -> NDArray[np.float64]:
        likeliest = read_classes(table, num_classes)
        soft_labels = np.full((len(table), num_classes), self.smoothing / num_classes)
        np.put_along_axis(soft_labels, likeliest, 1 - self.smoothing + self.smoothing / num_classes, 1)
        return soft_labels


def hard(smoothing: float, compressed: bool) -> Quantised:
    """Write the likeliest class alone, a byte; it is read as a smoothed one-hot label.

    Of classes that are equally likely it is the first, also where all are: a client cannot say that it does not know.

    Parameters
    ----------
    smoothing : float
        What is spread evenly over all classes, from 0 to below 1.
    compressed : bool
        Whether the bytes are entropy-coded.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing={smoothing!r} must be from 0 to below 1")
    return Quantised(_Hard(smoothing), compressed)
