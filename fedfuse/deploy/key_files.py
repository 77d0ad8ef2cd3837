"""Files that hold keys and certificates: private from the moment they exist, never overwritten, never half-made."""

import os
import secrets
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fedfuse.errors import ConfigurationError

PRIVATE_FILE = 0o600
PUBLIC_FILE = 0o644
PRIVATE_DIRECTORY = 0o700


@dataclass(frozen=True)
class KeyFile:
    """A file to be written.

    Parameters
    ----------
    path : Path
        Where it goes.
    content : bytes
        What it holds.
    private : bool
        Whether its owner alone may read it.
    """

    path: Path
    content: bytes
    private: bool


def create_files(files: Iterable[KeyFile]) -> None:
    """Create files, all or none of them; directories that are missing are made for their owner alone.

    Raises
    ------
    ConfigurationError
        If one of them exists, or cannot be written.
    """
    created: list[Path] = []
    try:
        for file in files:
            _make_directory(file.path.parent)
            mode = PRIVATE_FILE if file.private else PUBLIC_FILE
            descriptor = os.open(file.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            created.append(file.path)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(file.content)
            file.path.chmod(mode)  # whatever the umask took away
    except BaseException as error:
        for path in created:
            path.unlink()
        if isinstance(error, FileExistsError):
            raise ConfigurationError(f"{error.filename} exists: nothing was changed.") from error
        if isinstance(error, OSError):
            raise _not_possible("written", error) from error
        raise


def replace_files(files: Iterable[KeyFile]) -> None:
    """Write files in the place of others; whoever reads one sees all of the old content or all of the new one.

    Raises
    ------
    ConfigurationError
        If one of them cannot be written.
    """
    files = list(files)
    suffix = secrets.token_hex(4)
    temporaries = [
        KeyFile(file.path.with_name(f".{file.path.name}.{suffix}"), file.content, file.private) for file in files
    ]
    create_files(temporaries)
    try:
        for temporary, file in zip(temporaries, files, strict=True):
            temporary.path.replace(file.path)
    except OSError as error:
        raise _not_possible("written", error) from error
    finally:
        for temporary in temporaries:
            temporary.path.unlink(missing_ok=True)


def read_file(path: Path) -> bytes:
    """Read a file.

    Raises
    ------
    ConfigurationError
        If it is not there, or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise _not_possible("read", error) from error


def exposure(path: Path) -> str | None:
    """Say that others than its owner may read or change a file that is private; None if they may not."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        return f"{path} is open to others (mode {mode:04o}): chmod 600 {path}"
    return None


def _make_directory(directory: Path) -> None:
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    for path in reversed(missing):  # one by one: mkdir(parents=True) gives its mode to the last one only
        path.mkdir(mode=PRIVATE_DIRECTORY, exist_ok=True)


def _not_possible(what: str, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"{error.filename} cannot be {what}: {error.strerror or error}.")
