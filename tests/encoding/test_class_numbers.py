import numpy as np
import pytest

from fedfuse.encoding.class_numbers import bytes_of_a_class, read_classes, write_classes
from fedfuse.knowledge import InvalidKnowledgeError


@pytest.mark.parametrize(("num_classes", "width"), [(2, 1), (256, 1), (257, 2), (1000, 2)])
def test_a_class_takes_one_byte_or_two(num_classes, width):
    assert bytes_of_a_class(num_classes) == width
    classes = np.array([[0, num_classes - 1, 1], [1, 0, num_classes - 2]])
    table = write_classes(classes, num_classes)
    assert (table.dtype, table.shape) == (np.uint8, (2, 3 * width))
    assert (read_classes(table, num_classes) == classes).all()
    assert read_classes(table[:0], num_classes).shape == (0, 3)


@pytest.mark.parametrize("num_classes", [10, 300])
def test_a_class_that_there_is_not_is_refused(num_classes):
    with pytest.raises(InvalidKnowledgeError, match="a class that there is not"):
        read_classes(write_classes(np.array([[num_classes]]), num_classes), num_classes)
