import numpy as np
import pyarrow as pa
import pytest

from fedfuse.data.sources.arrow_values import encoded_images, is_number, numbers, plain_values, vectors
from fedfuse.errors import ConfigurationError


def place(row):
    return f"row {row + 1}"


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([3, 1], pa.uint8()), np.array([3, 1], dtype=np.int64)),
        (pa.array([True, False]), np.array([1, 0], dtype=np.int64)),
        (pa.array([1.0, 2.0], pa.float32()), np.array([1.0, 2.0])),
        (pa.array(["b ", "a"]), np.array(["b", "a"], dtype=object)),
        (pa.array(["b", "a", "b"]).dictionary_encode(), np.array(["b", "a", "b"], dtype=object)),
    ],
)
def test_plain_values_keep_what_they_are(array, expected):
    values = plain_values(array, place)
    assert values.dtype == expected.dtype
    assert values.tolist() == expected.tolist()


@pytest.mark.parametrize("array", [pa.array([1, None]), pa.array(["a", None]), pa.array(["a", "  "])])
def test_an_empty_cell_is_named(array):
    with pytest.raises(ConfigurationError, match="row 2 is empty"):
        plain_values(array, place)


def test_lists_are_no_labels():
    with pytest.raises(ConfigurationError, match=r"row 1 is of the type list.*names or whole numbers"):
        plain_values(pa.array([[1]]), place)


def test_numbers_can_be_texts():
    for array in (pa.array([1, 2]), pa.array(["1", " 2.0 "]), pa.array([1, 2], pa.float16())):
        assert numbers(array, place).tolist() == [1.0, 2.0]
        assert numbers(array, place).dtype == np.float64
    assert numbers(pa.array([True, False]), place).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (pa.array(["1", "two"]), "row 2 is text, 'two', in a column of numbers"),
        (pa.array(["1", ""]), "row 2 is empty"),
        (pa.array(["1", "nan"]), "row 2 is nan, not a finite number"),
        (pa.array([1.0, np.inf]), "row 2 is inf, not a finite number"),
        (pa.array([1.0, 1e300]), r"row 2 is 1e\+300, not a finite number in single precision"),
        (pa.array([1.0, None]), "row 2 is empty"),
    ],
)
def test_what_is_no_number_is_named_with_its_row(array, message):
    with pytest.raises(ConfigurationError, match=message):
        numbers(array, place)


def test_texts_that_are_numbers():
    assert [is_number(text) for text in ("1", "-2.5e3", "nan", "inf")] == [True] * 4
    assert [is_number(text) for text in ("", "a", "1a", "1,5", "1_000")] == [False] * 5


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float16(), 3)])
def test_lists_become_rows(kind):
    rows = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    values = vectors(pa.array([[float(x) for x in row] for row in rows], kind), place)
    assert values.dtype == np.float32
    assert values.tolist() == rows
    sliced = pa.array([[float(x) for x in row] for row in rows], kind).slice(1, 2)
    assert vectors(sliced, place).tolist() == rows[1:]


def test_lists_of_lists_become_matrices():
    rows = np.arange(24.0).reshape(4, 2, 3)
    assert np.array_equal(vectors(pa.array(rows.tolist()), place), rows)
    fixed = pa.array(rows.tolist(), pa.list_(pa.list_(pa.float32(), 3), 2))
    assert np.array_equal(vectors(fixed, place), rows)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1.0, 2.0], [1.0]], "row 2 holds 1 numbers, the first row 2"),
        ([[1.0, 2.0], None], "row 2 is empty"),
        ([[1.0, 2.0], [1.0, 2.0], [1.0, None]], "row 3 is empty"),
        ([[1.0, 2.0], [np.nan, 1.0]], "row 2 is nan"),
        ([[[1.0], [2.0]], [[1.0], [2.0, 3.0]]], "row 2 holds 2 numbers, the first row 1"),
    ],
)
def test_what_is_no_list_of_the_same_numbers_is_named(rows, message):
    with pytest.raises(ConfigurationError, match=message):
        vectors(pa.array(rows), place)


def test_images_are_bytes_with_or_without_a_path():
    struct = pa.array([{"bytes": b"a", "path": "x"}, {"bytes": b"b", "path": None}])
    for array in (struct, pa.array([b"a", b"b"]), pa.array([b"a", b"b"], pa.large_binary())):
        images = encoded_images(array, place)
        assert [image.content for image in images] == [b"a", b"b"]
        assert str(images[1]) == "row 2"
    sliced = pa.array([{"bytes": b"a", "path": "x"}, {"bytes": b"b", "path": None}]).slice(1, 1)
    assert [image.content for image in encoded_images(sliced, place)] == [b"b"]


def test_an_image_without_bytes_is_named():
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for missing in (None, {"bytes": None, "path": "x.png"}):
        with pytest.raises(ConfigurationError, match="row 2 is empty"):
            encoded_images(pa.array([{"bytes": b"a", "path": ""}, missing], kind), place)
