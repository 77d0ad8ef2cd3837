"""The states of many clients in one file, of which only those of the clients that took part last are in memory."""

import io
import sqlite3
from pathlib import Path

import torch
from torch import Tensor

from fedfuse.client.state import KEPT_GENERATIONS, ClientState, Generation
from fedfuse.knowledge import Tensors

SECONDS_TO_WAIT = 600.0  # for another process that writes
# The largest pages that there are, and so much of them before the disk is waited for: what SQLite has by default (4096
# bytes, 2 MiB) writes models of 700 kB two to three times as slowly, and small ones as quickly (measured).
PAGE_BYTES = 2**16
CACHE_KIBIBYTES = 2**14


class StateFile:
    """Keeps states in an SQLite file; what is saved is there from the next `commit` on, all of it or nothing.

    In memory are the states that were saved since the last commit but one, so what it takes follows the clients that
    take part and not those that there are, and one that takes part in every phase is not read from the file. Several
    processes may have the same file open, each for clients of its own.

    Parameters
    ----------
    path : Path
        Made if it is missing.

    Raises
    ------
    sqlite3.DatabaseError
        If the file is something else.
    """

    def __init__(self, path: Path) -> None:
        self._file = sqlite3.connect(path, timeout=SECONDS_TO_WAIT)
        self._generations: dict[int, list[Generation]] = {}
        self._saved: dict[tuple[int, Generation], ClientState] = {}
        self._committed_last: dict[tuple[int, Generation], ClientState] = {}
        try:
            self._file.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # of a new file
            self._file.execute(f"PRAGMA cache_size = -{CACHE_KIBIBYTES}")
            self._file.execute(
                "CREATE TABLE IF NOT EXISTS states "
                "(client INTEGER, round INTEGER, phase INTEGER, state BLOB, PRIMARY KEY (client, round, phase))"
            )
            rows = self._file.execute("SELECT client, round, phase FROM states ORDER BY client, round, phase")
            for client_id, round, phase in rows:
                self._generations.setdefault(client_id, []).append(Generation(round, phase))
        except sqlite3.Error:
            self.close()
            raise

    def load(self, client_id: int, generation: Generation) -> ClientState | None:
        """See `StateStore.load`."""
        if generation not in self._generations.get(client_id, []):
            return None
        key = client_id, generation
        return self._saved.get(key) or self._committed_last.get(key) or self._read(client_id, generation)

    def load_before(self, client_id: int, generation: Generation) -> ClientState | None:
        """See `StateStore.load_before`."""
        earlier = [other for other in self._generations.get(client_id, []) if other < generation]
        return self.load(client_id, earlier[-1]) if earlier else None

    def newest(self, client_id: int) -> Generation | None:
        """See `StateStore.newest`."""
        return max(self._generations.get(client_id, []), default=None)

    def save(self, client_id: int, generation: Generation, state: ClientState) -> None:
        """See `StateStore.save`. It is lost with this process unless `commit` follows."""
        earlier = [other for other in self._generations.get(client_id, []) if other < generation]
        self._generations[client_id] = [*earlier[-(KEPT_GENERATIONS - 1) :], generation]
        self._saved[client_id, generation] = state

    def commit(self) -> None:
        """Write what was saved since the last time; the rest of the file is left as it is."""
        with self._file:
            for client_id in {client_id for client_id, _ in self._saved}:
                kept = self._generations[client_id]
                self._file.execute(
                    "DELETE FROM states WHERE client = ? AND (round, phase) NOT IN (VALUES (?, ?), (?, ?))",
                    (client_id, *kept[0], *kept[-1]),
                )
            self._file.executemany(
                "INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?)",
                (
                    (client_id, *generation, _to_bytes(state))
                    for (client_id, generation), state in self._saved.items()
                    if generation in self._generations[client_id]
                ),
            )
        self._committed_last, self._saved = self._saved, {}

    def close(self) -> None:
        """Close the file; what was not committed is lost."""
        self._file.close()

    def _read(self, client_id: int, generation: Generation) -> ClientState:
        query = "SELECT state FROM states WHERE client = ? AND round = ? AND phase = ?"
        (content,) = self._file.execute(query, (client_id, *generation)).fetchone()
        return ClientState.from_dict(torch.load(io.BytesIO(content), weights_only=True))


def _to_bytes(state: ClientState) -> bytes:
    plain = state.to_dict()
    plain["parameters"] = _own(plain["parameters"])
    plain["objective_state"] = _own(plain["objective_state"])
    plain["received"] = {carrier: _own(tensors) for carrier, tensors in plain["received"].items()}
    content = io.BytesIO()
    torch.save(plain, content)
    return content.getvalue()


def _own(tensors: Tensors) -> dict[str, Tensor]:
    # A view, of the parameters of all clients for example, would take all that it is a view of into the file.
    return {
        name: tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor
        for name, tensor in tensors.items()
    }
