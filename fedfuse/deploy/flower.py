"""The Flower commands that a deployment is made of, as lists of words, and the surroundings that they need."""

import json
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedfuse.errors import ConfigurationError

CONNECTION = "fedfuse"
DEFAULT_PORT = 8000

# Flower would else install our dependencies anew for every run, tell its makers of it, ask whether there is a newer
# Flower, and look only once a second for work.
SURROUNDINGS = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
}

# The app of an installed fedfuse: nothing but the names of its parts, which every machine has installed.
INSTALLED_APP = """\
[project]
name = "fedfuse-installed"
version = "{version}"
description = "Runs the fedfuse that is installed on every machine."
license = "Apache-2.0"

[tool.flwr.app]
publisher = "fedfuse"

[tool.flwr.app.components]
serverapp = "fedfuse.server_app:app"
clientapp = "fedfuse.client_app:app"

[tool.flwr.app.config]
overrides = ""
"""


@dataclass(frozen=True)
class ServerFiles:
    """The files that a server with TLS has: the authority's certificate, its own, and its key."""

    authority: Path
    certificate: Path
    key: Path


def environment(home: Path) -> dict[str, str]:
    """Return the environment for Flower's commands: this process's own, with what they need.

    Parameters
    ----------
    home : Path
        Where Flower keeps its files (``FLWR_HOME``).
    """
    # A command of Flower finds the others only on the path, and this process may not have been started from there.
    path = os.pathsep.join(filter(None, [str(Path(sys.executable).parent), os.environ.get("PATH")]))
    return {**os.environ, **SURROUNDINGS, "FLWR_HOME": str(home), "PATH": path}


def superlink(host: str, port: int, database: Path, tls: ServerFiles | None) -> list[str]:
    """Make the command of the server's side; without TLS files it is insecure, and lets any node in."""
    words = [_found("flower-superlink"), f"--host={host}", f"--port={port}", f"--database={database}"]
    if tls is None:
        return [*words, "--insecure"]
    return [
        *words,
        f"--ssl-ca-certfile={tls.authority}",
        f"--ssl-certfile={tls.certificate}",
        f"--ssl-keyfile={tls.key}",
        "--enable-supernode-auth",
    ]


def supernode(
    server: str, port: int, node_config: Mapping[str, str | int], authority: Path | None, key: Path | None
) -> list[str]:
    """Make the command of a client's side.

    Parameters
    ----------
    server : str
        Host and port of the SuperLink.
    port : int
        A free port of this machine, which only the node's own processes use.
    node_config : Mapping[str, str | int]
        What the client app is told of this node.
    authority : Path, optional
        The authority's certificate; without it the connection is insecure.
    key : Path, optional
        The node's private key.
    """
    words = [_found("flower-supernode"), f"--superlink={server}", "--host=127.0.0.1", f"--port={port}"]
    words.append("--insecure" if authority is None else f"--root-certificates={authority}")
    if key is not None:
        words.append(f"--auth-supernode-private-key={key}")
    words.append("--node-config=" + " ".join(f"{name}={_toml(value)}" for name, value in node_config.items()))
    return words


def register(public_key: Path) -> list[str]:
    """Make the command that lets a node in."""
    return [_found("flwr"), "supernode", "register", str(public_key), CONNECTION]


def submit(app: Path, overrides: str) -> list[str]:
    """Make the command that starts a run and shows its log until it ends."""
    return [_found("flwr"), "run", str(app), CONNECTION, "--stream", "--run-config", f"overrides={_toml(overrides)}"]


def list_runs() -> list[str]:
    """Make the command that tells how runs went, as JSON."""
    return [_found("flwr"), "list", CONNECTION, "--format", "json"]


def connection(address: str, authority: Path | None) -> str:
    """Write the part of Flower's ``config.toml`` that says how its commands reach the SuperLink."""
    trust = "insecure = true" if authority is None else f"root-certificates = {_toml(str(authority.resolve()))}"
    return f"[superlink.{CONNECTION}]\naddress = {_toml(address)}\n{trust}\n"


def shown(command: Sequence[str]) -> str:
    """Write a command as a person would type it."""
    first, *others = command
    return shlex.join([Path(first).name, *others])


def free_port() -> int:
    """Find a port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _found(command: str) -> str:
    """Find a command of Flower beside this Python, or on the path."""
    beside = Path(sys.executable).parent / command
    if beside.exists():
        return str(beside)
    found = shutil.which(command)
    if found is None:
        raise ConfigurationError(f"The command {command} of Flower is not installed: pip install flwr.")
    return found


def _toml(value: str | int) -> str:
    """Write a value as TOML, for Flower, which takes the next double quote for the end of a text, escaped or not."""
    if isinstance(value, int):
        return str(value)
    inner = json.dumps(value, ensure_ascii=False)[1:-1]
    return '"' + inner.replace('\\"', "\\u0022").replace("\x7f", "\\u007f") + '"'
