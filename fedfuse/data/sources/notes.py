"""What a user should know about how data were read, said beside the results."""

import sys
from dataclasses import dataclass

from fedfuse.data.samples import LabelledData


@dataclass(frozen=True, eq=False)
class Reading:
    """Data as they were read.

    Attributes
    ----------
    data : LabelledData
        The samples.
    notes : tuple[str, ...]
        A line for each thing that the data left open and the reader decided.
    """

    data: LabelledData
    notes: tuple[str, ...] = ()


def say(note: str) -> None:
    """Write a note to the standard error stream, where it does not mix with results."""
    sys.stderr.write(f"fedfuse: note: {note}\n")


def said(reading: Reading) -> LabelledData:
    """Say all notes of a reading and return its data."""
    for note in reading.notes:
        say(note)
    return reading.data
