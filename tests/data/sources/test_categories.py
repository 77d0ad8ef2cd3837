import numpy as np
import pytest

from fedfuse.data.sources.categories import Categories, check_classes, number, number_by_names
from fedfuse.errors import ConfigurationError


def place(position):
    return f"row {position + 1}"


def texts(*values):
    return np.array(values, dtype=object)


@pytest.mark.parametrize(
    ("values", "names", "members"),
    [
        (np.array([2, 0, 1, 0]), ("0", "1", "2"), [2, 0, 1, 0]),
        (np.array([2.0, 0.0, 1.0]), ("0", "1", "2"), [2, 0, 1]),
        (texts("2", "10", "1.0", "1"), ("1", "2", "10"), [1, 2, 0, 0]),
        (texts("b", "a", "b"), ("a", "b"), [1, 0, 1]),
        (texts("10", "9", "9a"), ("10", "9", "9a"), [0, 1, 2]),
        (texts("007", "07"), ("007", "07"), [0, 1]),
    ],
)
def test_values_are_numbered_in_sorted_order(values, names, members):
    categories = number(values, "label", place)
    assert categories.names == names
    assert categories.members.tolist() == members
    assert categories.members.dtype == np.int64
    assert categories.groups.names == names


def test_whole_numbers_that_are_not_0_to_c_minus_1_are_stated():
    assert number(np.array([1, 0]), "label", place).note is None
    assert number(texts("b", "a"), "label", place).note is None
    assert number(np.array([7, -3, 9]), "label", place).note == (
        "The labels -3, 7, 9 are numbered 0 to 2 in this order; their names stay."
    )
    assert "1, 2, 3, 4, 5, ..., 10 are numbered 0 to 9" in number(np.arange(1, 11), "label", place).note


def test_a_number_that_is_not_whole_is_named_with_its_place():
    with pytest.raises(ConfigurationError, match=r"row 3: the label 0\.5 is neither a name nor a whole number"):
        number(np.array([1.0, 0.0, 0.5]), "label", place)
    with pytest.raises(ConfigurationError, match=r"row 1: the label 1\.5 "):
        number(texts("1.5", "2"), "label", place)


def test_names_that_are_given_are_kept_without_samples():
    categories = number_by_names(np.array([2, 0]), ("a", "b", "c"), "label", place)
    assert (categories.names, categories.members.tolist()) == (("a", "b", "c"), [2, 0])


@pytest.mark.parametrize("value", [-1, 3])
def test_a_number_without_a_name_is_named_with_its_place(value):
    with pytest.raises(ConfigurationError, match=rf"row 2: the label is {value}; its 3 names allow 0 to 2"):
        number_by_names(np.array([0, value]), ("a", "b", "c"), "label", place)


def test_named_numbers_must_be_whole():
    with pytest.raises(ConfigurationError, match="row 1: the labels have names in the file"):
        number_by_names(np.array([0.5]), ("a",), "label", place)


def test_two_classes_need_samples():
    check_classes(Categories(("a", "b", "c"), np.array([0, 2])), "FILE")
    with pytest.raises(ConfigurationError, match="FILE: all samples have the label 'b'; at least two classes"):
        check_classes(Categories(("a", "b"), np.array([1, 1])), "FILE")
    with pytest.raises(ConfigurationError, match="FILE: there are no samples"):
        check_classes(Categories(("a", "b"), np.array([], dtype=np.int64)), "FILE")
