"""From tables, of whatever origin, to labelled data."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from fedfuse.data.samples import LabelledData, Samples
from fedfuse.data.sources.arrow_values import Place, encoded_images, numbers, plain_values, vectors
from fedfuse.data.sources.categories import Categories, check_classes, number, number_by_names
from fedfuse.data.sources.columns import Column, Kind, Roles, check_columns, find_roles
from fedfuse.data.sources.decode import Encoded, decode_images
from fedfuse.data.sources.notes import Reading
from fedfuse.data.sources.options import Options
from fedfuse.data.sources.standardise import standardise
from fedfuse.errors import ConfigurationError


@dataclass(frozen=True, eq=False)
class Part:
    """A table, or one of several that together are one: its files, or its train and its test part.

    Attributes
    ----------
    where : str
        The file, for messages.
    columns : tuple[Column, ...]
        What it has.
    num_rows : int
        How many rows.
    read : callable
        Yields batches of the named columns.
    is_test : bool
        Whether the source keeps it for testing.
    """

    where: str
    columns: tuple[Column, ...]
    num_rows: int
    read: Callable[[Sequence[str]], Iterator[pa.RecordBatch]]
    is_test: bool = False


def read_table(parts: Sequence[Part], options: Options) -> Reading:
    """Make labelled data of a table.

    Parameters
    ----------
    parts : Sequence[Part]
        At least one; their rows follow each other.
    options : Options
        What the user says of the columns, the images and the features.

    Raises
    ------
    ConfigurationError
        Names the file, the row (from 1, without a header) and the column of what cannot be used.
    """
    parts = [part for part in parts if part.num_rows] or list(parts)
    first = parts[0]
    if not first.num_rows:
        raise ConfigurationError(f"{first.where} has no rows.")
    roles = find_roles(first.columns, options, first.where)
    for part in parts[1:]:
        check_columns(part.columns, roles, part.where)
    if roles.kind is not Kind.IMAGE:
        options.refuse(("image_size", "grey"), f"{first.where} has no images")
    # The short columns come first: what is wrong with them is found before minutes of decoding.
    labels = _categories(parts, roles.label, "label")
    check_classes(labels, first.where)
    clients = None if roles.client is None else _categories(parts, roles.client, "client")
    domains = None if roles.domain is None else _categories(parts, roles.domain, "domain")
    official_test = np.repeat([part.is_test for part in parts], [part.num_rows for part in parts])
    data = LabelledData(
        samples=Samples(torch.from_numpy(_inputs(parts, roles, options)), torch.from_numpy(labels.members)),
        class_names=labels.names,
        natural_clients=None if clients is None else clients.groups,
        domains=None if domains is None else domains.groups,
        official_test=official_test if official_test.any() and not official_test.all() else None,
    )
    return Reading(data, tuple(note for note in (roles.note, labels.note) if note is not None))


def _inputs(parts: Sequence[Part], roles: Roles, options: Options) -> NDArray[Any]:
    """Read images as bytes, all others as single precision."""
    if roles.kind is Kind.IMAGE:
        total = sum(part.num_rows for part in parts)
        return decode_images(_images(parts, roles.inputs[0]), total, options.image_size, options.grey)
    if roles.kind is Kind.VECTOR:
        pieces = [(vectors(array, place), place) for array, place in _column(parts, roles.inputs[0])]
        for (piece, _), (next_piece, place) in pairwise(pieces):
            if piece.shape[1:] != next_piece.shape[1:]:
                raise ConfigurationError(
                    f"{place(0)} holds lists of the shape {list(next_piece.shape[1:])}, the rows before it "
                    f"{list(piece.shape[1:])}."
                )
        features: NDArray[Any] = np.concatenate([piece for piece, _ in pieces])
    else:
        features = np.stack(
            [np.concatenate([numbers(array, place) for array, place in _column(parts, name)]) for name in roles.inputs],
            axis=1,
        )
    return standardise(features) if options.standardize and features.ndim == 2 else features.astype(np.float32)


def _images(parts: Sequence[Part], name: str) -> Iterator[list[Encoded]]:
    for array, place in _column(parts, name):
        yield encoded_images(array, place)


def _categories(parts: Sequence[Part], name: str, kind: str) -> Categories:
    """Read a column of names or whole numbers."""
    pieces = [(plain_values(array, place), place) for array, place in _column(parts, name)]
    first, _ = pieces[0]
    for piece, place in pieces:
        if (piece.dtype == object) != (first.dtype == object):
            found = "text" if piece.dtype == object else "a number"
            raise ConfigurationError(f"{place(0)} is {found}, unlike the rows before it.")
    values = np.concatenate([piece for piece, _ in pieces])

    def place_of(position: int) -> str:
        for piece, place in pieces:
            if position < len(piece):
                return place(position)
            position -= len(piece)
        raise IndexError(position)

    own = [next(column.names for column in part.columns if column.name == name) for part in parts]
    names = own[0]
    if any(other != names for other in own):
        raise ConfigurationError(f"{parts[0].where} and another part of the data name the {kind}s differently.")
    return number(values, kind, place_of) if names is None else number_by_names(values, names, kind, place_of)


def _column(parts: Sequence[Part], name: str) -> Iterator[tuple[pa.Array, Place]]:
    """Read a column in batches, each with a function that says where a row of it stands."""
    for part in parts:
        before = 0
        for batch in part.read([name]):
            if len(batch):
                yield batch.column(0), _place(part.where, before, name)
            before += len(batch)


def _place(where: str, before: int, name: str) -> Place:
    return lambda row: f"{where}, row {before + row + 1}, column {name!r}"
