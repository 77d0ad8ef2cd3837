"""Data that were read once, kept on disk in the form in which they are used, and mapped into memory from there."""

import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedfuse.data.samples import Groups, LabelledData, Samples
from fedfuse.data.sources.notes import Reading, say
from fedfuse.errors import ConfigurationError

FORMAT = 1  # a cache of another format is not used
MANIFEST = "manifest.json"
# A file is checked by this many blocks at even distances, with the first and the last: all of it up to 32 MiB.
NUM_BLOCKS = 32
BYTES_A_BLOCK = 2**20


def cached(sources: Sequence[Path], options: Mapping[str, object], read: Callable[[], Reading]) -> Reading:
    """Take data from the cache, or read them and keep them there.

    The cache is the folder ``$FEDFUSE_CACHE``, else ``$XDG_CACHE_HOME/fedfuse``, else ``~/.cache/fedfuse``; only its
    owner may read it, and it may be deleted at any time. Data are known by path, size and time of their files, and by
    the options. Where the cache cannot be written, this is said and the run goes on without.

    Parameters
    ----------
    sources : Sequence[Path]
        All files that the data are read from.
    options : Mapping[str, object]
        All else that what is read depends on; goes into JSON.
    read : callable
        Reads the data.

    Returns
    -------
    Reading
        With arrays that are mapped into memory, copied on write, where the cache could be used.
    """
    cache = cache_folder()
    entry = cache / _key(sources, options)
    if entry.exists():
        kept = _load(entry)
        if kept is not None:
            return kept
        say(f"{entry} is damaged and is made again.")
    reading = read()
    try:
        _keep(reading, cache, entry)
    except OSError as error:
        say(f"The cache {cache} cannot be written ({error.strerror}); the next run reads everything again.")
        return reading
    return _load(entry) or reading


def cache_folder() -> Path:
    """Say where the cache is."""
    own = os.environ.get("FEDFUSE_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "fedfuse"


def _key(sources: Sequence[Path], options: Mapping[str, object]) -> str:
    hashed = hashlib.sha256(json.dumps([FORMAT, options], sort_keys=True).encode())
    for source in sources:
        try:
            stat = source.stat()
        except OSError as error:
            raise ConfigurationError(f"{source} cannot be read ({error.strerror}).") from error
        hashed.update(f"\n{source.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode(errors="surrogateescape"))
    return hashed.hexdigest()[:32]


def _keep(reading: Reading, cache: Path, entry: Path) -> None:
    """Write an entry whole: in a folder of its own, which then gets the entry's name."""
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=cache))
    try:
        _write(reading, partial)
        _remove_entry(entry, partial.with_name(f"{partial.name}-old"))
        try:
            partial.rename(entry)
        except OSError:
            if not entry.exists():
                raise
            # Another process made the same entry meanwhile.
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_entry(entry: Path, aside: Path) -> None:
    """Remove a damaged entry; moved away first, so that nobody finds half of it."""
    if entry.exists() and _load(entry) is None:
        entry.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _write(reading: Reading, folder: Path) -> None:
    data = reading.data
    files = {}
    for name, array in _arrays(data).items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
        files[name] = {
            "shape": list(array.shape),
            "dtype": array.dtype.str,
            "bytes": (folder / f"{name}.npy").stat().st_size,
            "checksum": _checksum(folder / f"{name}.npy"),
        }
    manifest = {
        "format": FORMAT,
        "files": files,
        "class_names": list(data.class_names),
        "clients": None if data.natural_clients is None else list(data.natural_clients.names),
        "domains": None if data.domains is None else list(data.domains.names),
        "notes": list(reading.notes),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def _arrays(data: LabelledData) -> dict[str, NDArray[Any]]:
    arrays = {
        "inputs": data.samples.inputs.numpy(),
        "labels": data.samples.labels.numpy(),
        "clients": None if data.natural_clients is None else data.natural_clients.members,
        "domains": None if data.domains is None else data.domains.members,
        "order": data.order,
        "official_test": data.official_test,
    }
    return {name: array for name, array in arrays.items() if array is not None}


def _load(entry: Path) -> Reading | None:
    """Map an entry into memory; None if anything of it is not as it was written."""
    try:
        manifest = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
        arrays = {name: _map(entry / f"{name}.npy", stated) for name, stated in manifest["files"].items()}

        def groups(name: str) -> Groups | None:
            return Groups(tuple(manifest[name]), arrays[name]) if name in arrays else None

        data = LabelledData(
            samples=Samples(torch.from_numpy(arrays["inputs"]), torch.from_numpy(arrays["labels"])),
            class_names=tuple(manifest["class_names"]),
            natural_clients=groups("clients"),
            domains=groups("domains"),
            order=arrays.get("order"),
            official_test=arrays.get("official_test"),
        )
        return Reading(data, tuple(manifest["notes"])) if manifest["format"] == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigurationError):
        return None


def _map(path: Path, stated: Mapping[str, Any]) -> NDArray[Any]:
    if path.stat().st_size != stated["bytes"] or _checksum(path) != stated["checksum"]:
        raise ValueError(path)
    array: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    if list(array.shape) != stated["shape"] or array.dtype.str != stated["dtype"]:
        raise ValueError(path)
    return array


def _checksum(path: Path) -> int:
    """Sum up a file: all of a small one, blocks of a large one, so that this takes no time."""
    size, checksum = path.stat().st_size, 0
    with path.open("rb") as file:
        for start in np.unique(np.linspace(0, max(size - BYTES_A_BLOCK, 0), NUM_BLOCKS, dtype=np.int64)):
            file.seek(int(start))
            checksum = zlib.crc32(file.read(BYTES_A_BLOCK), checksum)
    return checksum
