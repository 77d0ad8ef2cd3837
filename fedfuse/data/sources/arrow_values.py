"""From Arrow columns to NumPy arrays, with the place of every value that cannot be used."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedfuse.data.sources.decode import Encoded
from fedfuse.errors import ConfigurationError

Place = Callable[[int], str]  # says where a row stands


def plain_values(array: pa.Array, place: Place) -> NDArray[Any]:
    """Take whole numbers, floats or texts, for example labels.

    Parameters
    ----------
    array : pa.Array
        ``[n]``.
    place : callable
        Says where a row stands.

    Raises
    ------
    ConfigurationError
        If a cell is empty or not finite, or the column holds something else.
    """
    values = _storage(array)
    _check_filled(values, place)
    kind = values.type
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return np.asarray(values.cast(pa.int64()).to_numpy(zero_copy_only=False))
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return numbers(values, place)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        values = _trimmed(values)
        _check_filled(values, place)
        return np.asarray(values.to_numpy(zero_copy_only=False), dtype=object)
    raise ConfigurationError(f"{place(0)} is of the type {kind}; names or whole numbers are needed.")


def numbers(array: pa.Array, place: Place) -> NDArray[np.float64]:
    """Take numbers, or texts that are numbers.

    Parameters
    ----------
    array, place
        As of `plain_values`.

    Returns
    -------
    NDArray[np.float64]
        ``[n]``, all finite in single precision too.

    Raises
    ------
    ConfigurationError
        If a cell is empty, not finite, or text that is no number.
    """
    values = _storage(array)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        values = _trimmed(values)
    _check_filled(values, place)
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    try:
        found = np.asarray(values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid:
        row = next(row for row, text in enumerate(values.to_pylist()) if not is_number(text))
        raise ConfigurationError(f"{place(row)} is text, {values[row].as_py()!r}, in a column of numbers.") from None
    _check_finite(found, place)
    return found


def is_number(text: str) -> bool:
    """Say whether a text is a number as Arrow reads one; infinities and NaN count."""
    try:
        pa.scalar(text).cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def vectors(array: pa.Array, place: Place) -> NDArray[np.float32]:
    """Take lists of numbers, or lists of lists, all of one shape.

    Parameters
    ----------
    array, place
        As of `plain_values`.

    Returns
    -------
    NDArray[np.float32]
        ``[n, *shape]``.

    Raises
    ------
    ConfigurationError
        If a list is missing or of another length than the first one, or a number in it is missing or not finite.
    """
    values, shape, rows_a_list = _storage(array), [len(array)], 1
    while pa.types.is_nested(values.type):
        _check_filled(values, lambda position, step=rows_a_list: place(position // step))  # type: ignore[misc]
        lengths = pc.list_value_length(values).to_numpy(zero_copy_only=False)
        other = np.flatnonzero(lengths != lengths[:1])
        if len(other):
            raise ConfigurationError(
                f"{place(int(other[0]) // rows_a_list)} holds {lengths[other[0]]} numbers, the first row {lengths[0]}."
            )
        length = int(lengths[0]) if len(lengths) else 0
        shape.append(length)
        rows_a_list *= max(length, 1)
        values = _storage(values.flatten())
    _check_filled(values, lambda position: place(position // rows_a_list))
    flat = np.asarray(values.to_numpy(zero_copy_only=False)).astype(np.float32)
    _check_finite(flat, lambda position: place(position // rows_a_list))
    return flat.reshape(shape)


def encoded_images(array: pa.Array, place: Place) -> list[Encoded]:
    """Take image files: bytes, or as the hub keeps them, bytes and path.

    Raises
    ------
    ConfigurationError
        If a cell has no bytes.
    """
    values = _storage(array)
    contents = values.field("bytes") if pa.types.is_struct(values.type) else values
    if pa.types.is_struct(values.type):
        _check_filled(values, place)
    _check_filled(contents, place)
    return [Encoded(content.as_buffer().to_pybytes(), place, row) for row, content in enumerate(contents)]


def _storage(array: pa.Array) -> pa.Array:
    """Look behind extension types (as the hub has for images and arrays) and dictionaries."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _trimmed(values: pa.Array) -> pa.Array:
    """Take the spaces off texts; one of spaces only is missing."""
    trimmed = pc.utf8_trim_whitespace(values)
    return pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, trimmed.type), trimmed)


def _check_filled(values: pa.Array, place: Place) -> None:
    if values.null_count:
        row = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
        raise ConfigurationError(f"{place(row)} is empty.")


def _check_finite(values: NDArray[Any], place: Place) -> None:
    with np.errstate(over="ignore"):
        broken = np.flatnonzero(~np.isfinite(values.astype(np.float32)))
    if len(broken):
        row = int(broken[0])
        raise ConfigurationError(f"{place(row)} is {values[row]}, not a finite number in single precision.")
