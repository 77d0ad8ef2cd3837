"""Human activity recognition: windows of a phone's motion sensors, worn by 30 people, each of whom is a client."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedfuse.data.samples import Groups, LabelledData, Samples
from fedfuse.data.sources.location import require
from fedfuse.errors import ConfigurationError

FILES = ("train.parquet", "test.parquet")
COLUMNS = ("signal", "label", "user")
CHANNELS, STEPS = 9, 128
ACTIVITIES = ("walking", "walking upstairs", "walking downstairs", "sitting", "standing", "laying")
PEOPLE = 30
OFFICIAL_TEST = (1, 3, 8, 9, 11, 12, 17, 19, 23)  # whom the original protocol keeps for testing, counted from 0

# Nobody has to agree on statistics of the data: constants bring body acceleration (g), angular velocity (rad/s) and
# total acceleration (g), each along three axes, near mean 0 and standard deviation 1. Worn upright, gravity is along x.
GRAVITY = np.array([0, 0, 0, 0, 0, 0, 0.8, 0, 0], dtype=np.float32)
SCALE = np.array([0.2, 0.2, 0.2, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4], dtype=np.float32)


def har(path: str | None = None) -> LabelledData:
    """10,299 windows of 2.56 s from the motion sensors of a phone: 6 activities of 30 people, who are the clients.

    The windows are stored in random order. Within a recording each window repeats the second half of the one before,
    number by number, and from that their order in time is found again.

    Parameters
    ----------
    path : str, optional
        The folder with ``train.parquet`` and ``test.parquet``.

    Returns
    -------
    LabelledData
        Inputs ``[10299, 9, 128]``, channels by time: body acceleration, angular velocity and total acceleration along
        three axes, in units of 0.2 g, 0.4 rad/s and 0.4 g, the total along x from 0.8 g on. Natural clients are the
        people, ``order`` is the order in time, and the official test set is that of the original nine test people.

    Raises
    ------
    ConfigurationError
        If the files are not there, or are not of this data set.

    Notes
    -----
    Source: D. Anguita et al., "A Public Domain Dataset for Human Activity Recognition Using Smartphones", ESANN 2013.
    """
    folder = require(
        "har",
        path,
        f"{' and '.join(FILES)} (columns {', '.join(COLUMNS)}), made of "
        "'Human Activity Recognition Using Smartphones' of the UCI repository",
    )
    parts = [_read(folder / name) for name in FILES]
    windows, labels, people = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    inputs = (windows.astype(np.float32) - GRAVITY[:, None]) / SCALE[:, None]
    return LabelledData(
        samples=Samples(torch.from_numpy(inputs), torch.from_numpy(labels)),
        class_names=ACTIVITIES,
        natural_clients=Groups(tuple(f"person {person + 1}" for person in range(PEOPLE)), people),
        order=order_in_time(windows, people),
        official_test=np.isin(people, OFFICIAL_TEST),
    )


def order_in_time(windows: NDArray[np.float16], people: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find the order of overlapping windows: which one begins as another one of the same person ends.

    Parameters
    ----------
    windows : NDArray[np.float16]
        ``[n, 9, 128]`` in any order. The total acceleration, the last three channels, is not compared.
    people : NDArray[np.int64]
        ``[n]``, whose each window is.

    Returns
    -------
    NDArray[np.int64]
        ``[n]``: 1 more than the window before in the same recording. Between two recordings a number is left out.

    Raises
    ------
    ConfigurationError
        If two windows of a person begin or end alike, or if windows follow each other in a circle.
    """
    half = windows.shape[2] // 2
    beginnings = _rows_by_content(windows[:, :6, :half], people, "begin")
    endings = _rows_by_content(windows[:, :6, half:], people, "end")
    following = {row: beginnings[content] for content, row in endings.items() if content in beginnings}

    order = np.full(len(windows), -1, dtype=np.int64)
    number = 0
    for first in sorted(set(range(len(windows))) - set(following.values())):
        row: int | None = first
        while row is not None:
            order[row] = number
            number += 1
            row = following.get(row)
        number += 1
    if (order < 0).any():
        raise ConfigurationError(f"Window {np.flatnonzero(order < 0)[0]} has no place in time: it follows itself.")
    return order


def _rows_by_content(
    halves: NDArray[np.float16], people: NDArray[np.int64], which: str
) -> dict[tuple[int, bytes], int]:
    """Find rows by their person and content, of which there may be only one."""
    rows: dict[tuple[int, bytes], int] = {}
    for row, (half, person) in enumerate(zip(halves, people.tolist(), strict=True)):
        other = rows.setdefault((person, half.tobytes()), row)
        if other != row:
            raise ConfigurationError(f"Windows {other} and {row} of one person {which} alike; their order is unclear.")
    return rows


def _read(path: Path) -> tuple[NDArray[np.float16], NDArray[np.int64], NDArray[np.int64]]:
    """Read the windows, labels and people of one file."""
    from pyarrow import ArrowException, FixedSizeListArray, parquet

    if not path.is_file():
        raise ConfigurationError(f"There is no file {path}.")
    try:
        table = parquet.read_table(path)
    except (ArrowException, OSError) as error:
        raise ConfigurationError(f"{path} is no parquet file, or a torn one.") from error
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise ConfigurationError(f"{path} has no column {missing[0]!r}; it needs {', '.join(COLUMNS)}.")
    signal, label, person = (table.column(name).combine_chunks() for name in COLUMNS)
    for name, column in zip(COLUMNS, (signal, label, person), strict=True):
        if column.null_count:
            raise ConfigurationError(f"{path}, column {name}: row {np.flatnonzero(column.is_null())[0]} is empty.")
    if not isinstance(signal, FixedSizeListArray) or signal.type.list_size != CHANNELS * STEPS:
        raise ConfigurationError(f"{path}, column signal: each row must be a list of {CHANNELS * STEPS} numbers.")
    windows = signal.flatten().to_numpy(zero_copy_only=False).astype(np.float16, copy=False)
    windows = windows.reshape(-1, CHANNELS, STEPS)
    faulty = np.flatnonzero(~np.isfinite(windows).all((1, 2)))
    if len(faulty):
        raise ConfigurationError(f"{path}, column signal: row {faulty[0]} holds a NaN or an infinity.")
    return windows, _numbers(path, "label", label, len(ACTIVITIES)), _numbers(path, "user", person, PEOPLE)


def _numbers(path: Path, name: str, column: object, stop: int) -> NDArray[np.int64]:
    """Check a column of whole numbers from 0 on."""
    numbers = np.asarray(column)
    if numbers.dtype.kind not in "iu":
        raise ConfigurationError(f"{path}, column {name}: it must hold whole numbers, not {numbers.dtype}.")
    faulty = np.flatnonzero((numbers < 0) | (numbers >= stop))
    if len(faulty):
        raise ConfigurationError(
            f"{path}, column {name}: row {faulty[0]} has {numbers[faulty[0]]}; it must be from 0 to {stop - 1}."
        )
    return numbers.astype(np.int64)
