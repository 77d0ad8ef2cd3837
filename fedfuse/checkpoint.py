"""Save and load where a run stands, so that it is there whole or not at all."""

import os
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from fedfuse.client.state_file import StateFile
from fedfuse.errors import ConfigurationError

FOLDER = "checkpoint"
CLIENTS, SERVER = "clients.sqlite", "server.pt"
CLIENTS_OF_EARLIER_VERSIONS = "clients.pt"


def check_version(directory: Path) -> None:
    """Refuse a run whose checkpoint cannot be read because an earlier version of fedfuse wrote it.

    Raises
    ------
    ConfigurationError
        If it has the clients' states in the file of that version.
    """
    folder = directory / FOLDER
    if (folder / CLIENTS_OF_EARLIER_VERSIONS).exists() and not (folder / CLIENTS).exists():
        raise ConfigurationError(
            f"resume={directory}: that run is of an earlier version of fedfuse, which wrote "
            f"{FOLDER}/{CLIENTS_OF_EARLIER_VERSIONS}, and cannot be continued. Start it anew."
        )


def open_client_states(directory: Path) -> StateFile:
    """Open the states of clients that are computed where the server is: those of a checkpoint, or none without one.

    Parameters
    ----------
    directory : Path
        The run's directory.

    Raises
    ------
    ConfigurationError
        If there is a checkpoint without such states, or they cannot be read.
    """
    folder = directory / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / CLIENTS
    if (folder / SERVER).is_file():
        _check_kind(directory, clients_here=True)
        if path.stat().st_size == 0:  # to SQLite a new file, which would let every client begin afresh
            raise _unreadable(folder, EOFError())
    else:
        path.unlink(missing_ok=True)
    try:
        return StateFile(path)
    except sqlite3.Error as error:
        raise _unreadable(folder, error) from error


def save_checkpoint(
    directory: Path, server: Mapping[str, Any], commit_clients: Callable[[], None] | None = None
) -> None:
    """Replace the checkpoint of a run.

    Parameters
    ----------
    directory : Path
        The run's directory.
    server : Mapping[str, Any]
        Nested dictionaries and lists of tensors and plain values.
    commit_clients : Callable, optional
        Makes last what clients saved since the checkpoint before, where their states are in this directory.
    """
    folder = directory / FOLDER
    folder.mkdir(exist_ok=True)
    # First the clients: one that is ahead of the server has kept the generation to start again from.
    if commit_clients is not None:
        commit_clients()
    _replace(folder / SERVER, server)


def load_checkpoint(directory: Path, clients_here: bool) -> dict[str, Any]:
    """Load what `save_checkpoint` saved of the server.

    Parameters
    ----------
    directory : Path
        The run's directory.
    clients_here : bool
        Whether the clients' states are in this directory too.

    Raises
    ------
    ConfigurationError
        If there is no checkpoint, it is of another kind of engine, or it cannot be read.
    """
    folder = directory / FOLDER
    if not (folder / SERVER).is_file():
        raise ConfigurationError(f"There is no checkpoint in {directory}: resume=DIR wants the directory of a run.")
    _check_kind(directory, clients_here)
    try:
        server: dict[str, Any] = torch.load(folder / SERVER, weights_only=True)
    except Exception as error:
        raise _unreadable(folder, error) from error
    return server


def _check_kind(directory: Path, clients_here: bool) -> None:
    folder = directory / FOLDER
    if (folder / CLIENTS).exists() != clients_here:
        raise ConfigurationError(f"The run in {directory} was not made by this kind of engine: resume it there.")


def _unreadable(folder: Path, error: Exception) -> ConfigurationError:
    return ConfigurationError(f"The checkpoint in {folder} cannot be read ({type(error).__name__}).")


def _replace(path: Path, contents: Mapping[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(dict(contents), file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
