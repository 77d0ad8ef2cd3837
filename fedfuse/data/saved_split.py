"""A split in a file: which rows of a data source are whose, to use a published or a hospital's split exactly."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedfuse.data.samples import Population
from fedfuse.errors import ConfigurationError, unknown_name


@dataclass(frozen=True, eq=False)
class SavedSplit:
    """Which rows of a data source are whose.

    Attributes
    ----------
    clients : tuple[NDArray[np.int64], ...]
        The rows of each client, by client id.
    global_test : NDArray[np.int64] or None
        The rows that test everybody, where they are given.
    transfer : NDArray[np.int64] or None
        The rows of the transfer set, where they are given and from the same source.
    """

    clients: tuple[NDArray[np.int64], ...]
    global_test: NDArray[np.int64] | None = None
    transfer: NDArray[np.int64] | None = None

    @property
    def assigned(self) -> NDArray[np.int64]:
        """All rows that the split gives to somebody."""
        parts = [*self.clients, *(part for part in (self.global_test, self.transfer) if part is not None)]
        return np.concatenate([np.empty(0, dtype=np.int64), *parts])

    def unassigned(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Take those of some rows that the split gives to nobody."""
        return rows[~np.isin(rows, self.assigned)]


def from_file(
    population: Population, num_clients: int, seed: int, path: str, min_samples: int = 1
) -> list[NDArray[np.int64]]:
    """Give every client the rows that a file names.

    Parameters
    ----------
    population : Population
        The samples left for the clients.
    num_clients : int
        How many clients there are; the file must have as many.
    seed : int
        Not used: nothing is drawn.
    path : str
        A file as `write_split` writes it.
    min_samples : int
        The fewest samples a client may have.

    Raises
    ------
    ConfigurationError
        If the file is no split, has another number of clients, gives one too few samples, or a row that is not left.
    """
    split = read_split(Path(path))
    if len(split.clients) != num_clients:
        raise ConfigurationError(f"{path} has {len(split.clients)} clients; say num_clients={len(split.clients)}.")
    order = np.argsort(population.positions)
    in_order = population.positions[order]
    shares = []
    for client, rows in enumerate(split.clients):
        if len(rows) < min_samples:
            raise ConfigurationError(
                f"{path} gives client {client} {len(rows)} samples; partition.min_samples={min_samples}."
            )
        free = np.isin(rows, in_order)
        if not free.all():
            raise ConfigurationError(
                f"{path} gives client {client} row {rows[~free][0]}, which is in the global test or transfer set, "
                f"or not in the data; use split.path={path} too."
            )
        shares.append(order[np.searchsorted(in_order, rows)])
    return shares


def write_split(path: Path, split: SavedSplit) -> None:
    """Write a split as JSON: ``clients``, a list of rows each, and ``global_test`` and ``transfer`` if there."""
    parts: dict[str, object] = {"clients": [rows.tolist() for rows in split.clients]}
    for name, rows in (("global_test", split.global_test), ("transfer", split.transfer)):
        if rows is not None:
            parts[name] = rows.tolist()
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(parts), encoding="utf-8")
    partial.replace(path)


def read_split(path: Path, num_samples: int | None = None) -> SavedSplit:
    """Read what `write_split` wrote.

    Parameters
    ----------
    path : Path
        The file.
    num_samples : int, optional
        How many rows the data source has, to check against.

    Raises
    ------
    ConfigurationError
        If the file is not there or no split, names a row twice, or one that the data does not have.
    """
    if not path.is_file():
        raise ConfigurationError(f"There is no file {path}.")
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is no JSON: {' '.join(str(error).split())}.") from error
    if not isinstance(parts, dict) or not isinstance(parts.get("clients"), list) or not parts["clients"]:
        raise ConfigurationError(
            f"{path} is no split: it must be JSON of row numbers, like "
            f'{{"clients": [[0, 3], [1, 2]], "global_test": [5], "transfer": [4]}}.'
        )
    unknown = parts.keys() - {"clients", "global_test", "transfer"}
    if unknown:
        raise unknown_name(f"part of the split {path}", min(unknown), ("clients", "global_test", "transfer"))
    clients = tuple(_rows(path, f"client {client}", rows) for client, rows in enumerate(parts["clients"]))
    split = SavedSplit(
        clients,
        global_test=_rows(path, "global_test", parts["global_test"]) if "global_test" in parts else None,
        transfer=_rows(path, "transfer", parts["transfer"]) if "transfer" in parts else None,
    )
    rows, counts = np.unique(split.assigned, return_counts=True)
    if (counts > 1).any():
        raise ConfigurationError(f"{path} has row {rows[counts > 1][0]} twice.")
    if len(rows) and (rows[0] < 0 or (num_samples is not None and rows[-1] >= num_samples)):
        outside = rows[0] if rows[0] < 0 else rows[-1]
        there_are = "no negative" if num_samples is None else num_samples
        raise ConfigurationError(f"{path} has row {outside}; the data has {there_are} rows, from 0 on.")
    return split


def _rows(path: Path, part: str, rows: object) -> NDArray[np.int64]:
    """Take a list of row numbers, and nothing that only looks like one, such as 1.5 or "1"."""
    if not isinstance(rows, list):
        raise ConfigurationError(f"{path}: {part} must be a list of row numbers, not {json.dumps(rows)[:80]}.")
    wrong = next((row for row in rows if type(row) is not int or abs(row) >= 2**63), None)
    if wrong is not None or None in rows:
        raise ConfigurationError(f"{path}: {part} has the row {json.dumps(wrong)[:80]}, which is no row number.")
    return np.array(rows, dtype=np.int64)
