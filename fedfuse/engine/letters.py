"""How this process and a worker write to each other: small things through a pipe, large ones through shared memory."""

import io
import mmap
import os
import pickle
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from logging import LogRecord
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from flwr.app import RecordDict

# Below this size a copy through the pipe costs nothing that could be saved.
LEAST_SHARED = 4096
ALIGNMENT = 64


@dataclass(frozen=True)
class Duty:
    """The first letter to a worker: what it is there for.

    Parameters
    ----------
    client_ids : frozenset[int]
        The clients that it owns.
    runner : str
        See `fedfuse.engine.runner.choose_runner`.
    threads : int
        With how many threads it computes.
    states : Path
        The file in which the states of all clients are kept.
    """

    client_ids: frozenset[int]
    runner: str
    threads: int
    states: Path


@dataclass(frozen=True)
class Ready:
    """The worker has understood its duty."""


@dataclass(frozen=True)
class Unable:
    """The worker cannot do its duty, or not any longer, and ends; ``reason`` is one line."""

    reason: str


@dataclass(frozen=True)
class Questions:
    """The messages of one kind to clients of the worker, by client id."""

    kind: str
    records: dict[int, RecordDict]


@dataclass(frozen=True)
class Verb:
    """A verb begins; ``done`` clients of the worker have finished the phase."""

    name: str
    done: int


@dataclass(frozen=True)
class Log:
    """What the worker has to say to the log of the run."""

    record: LogRecord


@dataclass(frozen=True)
class Answers:
    """The replies to all messages of `Questions`, by client id."""

    records: dict[int, RecordDict]


def anonymous_file() -> int:
    """Open a file in memory that has no name, so that nothing is left of it when the last process that has it ends."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("fedfuse")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Post:
    """One end of the line between two processes.

    A letter with something large in it may be sent only when the last such letter has been received, because it takes
    the same place: whoever asks waits for the answer before asking again.

    Parameters
    ----------
    connection : Connection
        This end of a pipe that goes both ways.
    outgoing, incoming : int
        Descriptors of the files in memory for what is sent and what is received. They are closed with the line.
    """

    def __init__(self, connection: Connection, outgoing: int, incoming: int) -> None:
        self._connection = connection
        self._outgoing = _Shared(outgoing)
        self._incoming = _Shared(incoming)

    def fileno(self) -> int:
        """Return what `multiprocessing.connection.wait` waits for."""
        return self._connection.fileno()

    def send(self, letter: object) -> None:
        """Send a letter.

        Raises
        ------
        OSError
            If nobody is at the other end any more.
        """
        written = io.BytesIO()
        packer = _Packer(written, pickle.HIGHEST_PROTOCOL)
        packer.dump(letter)
        self._outgoing.write(packer.large)
        self._connection.send_bytes(written.getbuffer())

    def receive(self) -> Any:  # noqa: ANN401 any of the letters above
        """Wait for a letter.

        Raises
        ------
        EOFError, OSError
            If nobody is at the other end any more.
        """
        return _Unpacker(io.BytesIO(self._connection.recv_bytes()), self._incoming).load()

    def close(self) -> None:
        """Give up the line; the other end notices."""
        self._connection.close()
        self._outgoing.close()
        self._incoming.close()


class _Packer(pickle.Pickler):
    """Leaves out what is large, and says where it will be."""

    def __init__(self, file: io.BytesIO, protocol: int) -> None:
        super().__init__(file, protocol)
        self.large: list[bytes] = []
        self._size = 0

    def persistent_id(self, part: object) -> tuple[int, int] | None:
        if type(part) is not bytes or len(part) < LEAST_SHARED:
            return None
        start = self._size
        self.large.append(part)
        self._size += _aligned(len(part))
        return start, len(part)


class _Unpacker(pickle.Unpickler):
    """Puts in again what was left out."""

    def __init__(self, file: io.BytesIO, shared: "_Shared") -> None:
        super().__init__(file)
        self._shared = shared

    def persistent_load(self, place: tuple[int, int]) -> bytes:
        return self._shared.read(*place)


class _Shared:
    """A file in memory, as large as the largest letter so far."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "r+b", buffering=0)
        self._memory: mmap.mmap | None = None

    def write(self, parts: Sequence[bytes]) -> None:
        """Write parts one after the other, each aligned."""
        needed = sum(_aligned(len(part)) for part in parts)
        if needed > os.fstat(self._file.fileno()).st_size:
            self._file.truncate(needed)
        start = 0
        for part in parts:
            self._mapped(needed)[start : start + len(part)] = part
            start += _aligned(len(part))

    def read(self, start: int, length: int) -> bytes:
        """Copy a part out."""
        return self._mapped(start + length)[start : start + length]

    def close(self) -> None:
        """Give the memory back."""
        if self._memory is not None:
            self._memory.close()
        self._file.close()

    def _mapped(self, size: int) -> mmap.mmap:
        """Map the file as it is now, unless what is mapped suffices; either process may have made it larger."""
        if self._memory is None or len(self._memory) < size:
            if self._memory is not None:
                self._memory.close()
            self._memory = mmap.mmap(self._file.fileno(), 0)
        return self._memory


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
