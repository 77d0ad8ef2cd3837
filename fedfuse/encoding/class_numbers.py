"""Numbers of classes as bytes: one for each, or two where there are more than 256 classes."""

import numpy as np
from numpy.typing import NDArray

from fedfuse.knowledge import InvalidKnowledgeError


def bytes_of_a_class(num_classes: int) -> int:
    """Tell how many bytes a class takes."""
    return 1 if num_classes <= 256 else 2


def write_classes(classes: NDArray[np.int64], num_classes: int) -> NDArray[np.uint8]:
    """Write classes ``[R, K]`` as bytes ``[R, K]`` or ``[R, 2 K]``."""
    width = bytes_of_a_class(num_classes)
    return np.ascontiguousarray(classes.astype(f"<u{width}")).view(np.uint8)


def read_classes(table: NDArray[np.uint8], num_classes: int) -> NDArray[np.int64]:
    """Read what `write_classes` wrote.

    Raises
    ------
    InvalidKnowledgeError
        If there is no such class.
    """
    width = bytes_of_a_class(num_classes)
    classes = np.ascontiguousarray(table).view(f"<u{width}").astype(np.int64)
    if (classes >= num_classes).any():
        raise InvalidKnowledgeError("soft labels name a class that there is not")
    return classes
