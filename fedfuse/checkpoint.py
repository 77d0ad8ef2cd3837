"""Save and load where a run stands, so that a file is there whole or not at all."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fedfuse.errors import ConfigurationError

FOLDER = "checkpoint"
# The clients' file is written first: a client that is ahead of the server has kept the generation to start again from.
CLIENTS, SERVER = "clients.pt", "server.pt"


def save_checkpoint(directory: Path, server: Mapping[str, Any], clients: Mapping[str, Any] | None) -> None:
    """Replace the checkpoint of a run.

    Parameters
    ----------
    directory : Path
        The run's directory.
    server, clients : Mapping[str, Any]
        Nested dictionaries and lists of tensors and plain values. Clients that keep their own state have no file here.
    """
    folder = directory / FOLDER
    folder.mkdir(exist_ok=True)
    if clients is not None:
        _replace(folder / CLIENTS, clients)
    _replace(folder / SERVER, server)


def load_checkpoint(directory: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Load what `save_checkpoint` saved.

    Raises
    ------
    ConfigurationError
        If there is no checkpoint, or it cannot be read.
    """
    folder = directory / FOLDER
    if not (folder / SERVER).is_file():
        raise ConfigurationError(f"There is no checkpoint in {directory}: resume=DIR wants the directory of a run.")
    try:
        server = torch.load(folder / SERVER, weights_only=True)
        clients = torch.load(folder / CLIENTS, weights_only=True) if (folder / CLIENTS).exists() else None
    except Exception as error:
        raise ConfigurationError(f"The checkpoint in {folder} cannot be read ({type(error).__name__}).") from error
    return server, clients


def _replace(path: Path, contents: Mapping[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(dict(contents), file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
