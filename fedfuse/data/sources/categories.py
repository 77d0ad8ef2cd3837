"""Names or whole numbers, of classes or of groups, made into numbers from 0 on."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfuse.data.samples import Groups
from fedfuse.errors import ConfigurationError

# No leading zeros: 007 is a name, which must not become 7.
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d*)?")
MOST_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Categories:
    """Values made into numbers.

    Attributes
    ----------
    names : tuple[str, ...]
        The value of each number, sorted: whole numbers by size, names by their characters.
    members : NDArray[np.int64]
        ``[n]``, the number of each value.
    note : str or None
        Says that whole numbers were not 0, 1, 2, ... and are numbered anew.
    """

    names: tuple[str, ...]
    members: NDArray[np.int64]
    note: str | None = None

    @property
    def groups(self) -> Groups:
        """The same as `Groups`."""
        return Groups(self.names, self.members)


def number(values: NDArray[Any], kind: str, place: Callable[[int], str]) -> Categories:
    """Give each value the number that it has among all, sorted.

    Parameters
    ----------
    values : NDArray
        ``[n]``, texts, integers, or floats that are whole numbers. Texts that are all numbers count as numbers.
    kind : str
        What they are to the user, for example ``"label"``.
    place : callable
        Says where the value at a position stands.

    Raises
    ------
    ConfigurationError
        If a number is not whole.
    """
    unique, members = np.unique(values, return_inverse=True)
    if unique.dtype.kind not in "iuf":
        if not all(NUMBER.fullmatch(text) for text in unique):
            return Categories(tuple(unique.tolist()), members.astype(np.int64))
        return number(unique.astype(np.float64)[members], kind, place)
    broken = np.flatnonzero(unique != np.floor(unique))
    if len(broken):
        first = int(np.flatnonzero(members == broken[0])[0])
        raise ConfigurationError(
            f"{place(first)}: the {kind} {unique[broken[0]]:g} is neither a name nor a whole number."
        )
    whole = [int(value) for value in unique]
    names = tuple(map(str, whole))
    note = None
    if whole != list(range(len(whole))):
        shown = ", ".join(names[:MOST_SHOWN]) + (f", ..., {names[-1]}" if len(names) > MOST_SHOWN else "")
        note = f"The {kind}s {shown} are numbered 0 to {len(names) - 1} in this order; their names stay."
    return Categories(names, members.astype(np.int64), note)


def number_by_names(values: NDArray[Any], names: tuple[str, ...], kind: str, place: Callable[[int], str]) -> Categories:
    """Take numbers that already have names; a name may have no value.

    Raises
    ------
    ConfigurationError
        If a value is not the number of a name.
    """
    if values.dtype.kind not in "iu":
        raise ConfigurationError(f"{place(0)}: the {kind}s have names in the file, so they must be whole numbers.")
    nameless = np.flatnonzero((values < 0) | (values >= len(names)))
    if len(nameless):
        raise ConfigurationError(
            f"{place(int(nameless[0]))}: the {kind} is {values[nameless[0]]}; its {len(names)} names allow 0 to "
            f"{len(names) - 1}."
        )
    return Categories(names, values.astype(np.int64))


def check_classes(labels: Categories, where: str) -> None:
    """Refuse labels that are all the same: there is nothing to learn.

    Raises
    ------
    ConfigurationError
        If fewer than two classes have samples.
    """
    present = np.unique(labels.members)
    if len(present) < 2:
        found = f"all samples have the label {labels.names[present[0]]!r}" if len(present) else "there are no samples"
        raise ConfigurationError(f"{where}: {found}; at least two classes are needed.")
