"""Run the clients on Flower's simulation runtime, which is made of Ray workers: one client at a time in each."""

import logging
import os
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedfuse.configuration import EngineSettings
from fedfuse.engine.remote_grid import RemoteGrid
from fedfuse.errors import ConfigurationError, FedfuseError

SECONDS_BETWEEN_LOOKS = 0.05
SECONDS_TO_STOP = 30
SECONDS_TO_CONNECT = 5
# Flower's code for what went wrong outside the ClientApp, whose handlers never raise: its worker is gone.
UNKNOWN = 0


class WorkerDiedError(FedfuseError):
    """A Ray worker is gone; Flower would go on giving it messages, and every one would fail."""


def run_on_ray(
    settings: EngineSettings,
    app: ClientApp,
    num_clients: int,
    work: Callable[[Grid], None],
    verb: Callable[[str, int, int], None],
) -> None:
    """Start Ray, do the server's work with a grid on it, and stop Ray.

    Parameters
    ----------
    settings : EngineSettings
        How many workers, and with how many threads.
    app : ClientApp
        What the workers run.
    num_clients : int
        As many virtual nodes are made; their ``partition-id`` counts from 0.
    work : Callable[[Grid], None]
        What the server does.
    verb : Callable[[str, int, int], None]
        Told how many replies of a phase have come.

    Raises
    ------
    ConfigurationError
        If Ray is not installed, or has no room for a single worker.
    WorkerDiedError
        If a worker is gone.
    Exception
        Whatever ``work`` raises.
    """
    check_installed()
    _check_address(settings.address)
    from flwr.simulation import run_simulation

    stopped, finished = threading.Event(), threading.Event()
    failures: list[Exception] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            work(RemoteGrid(grid, SECONDS_BETWEEN_LOOKS, verb, _check_worker, stopped))
        except Exception as error:
            # Not raised here: Flower would tell it in its own words.
            failures.append(error)
        finally:
            finished.set()

    with _scratch_directory() as scratch, _quiet():
        try:
            run_simulation(server, app, num_clients, backend_config=_backend(settings, scratch))
        except RuntimeError as error:
            if not failures:
                raise FedfuseError(f"Ray could not run: {' '.join(str(error.__cause__ or error).split())}") from error
        finally:
            # After Ctrl-C the server's thread must not outlive this call.
            stopped.set()
            finished.wait(SECONDS_TO_STOP)
    if failures:
        raise failures[0]


def check_installed() -> None:
    """Say what to install where Ray is missing.

    Raises
    ------
    ConfigurationError
        If it is missing.
    """
    if find_spec("ray") is None:
        raise ConfigurationError("engine=ray needs Ray, which is not installed: pip install 'fedfuse[ray]'")


def _check_address(address: str | None) -> None:
    """Find out now whether anybody is there: Ray itself would go on asking for a very long time."""
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), SECONDS_TO_CONNECT).close()
    except (OSError, OverflowError) as error:
        raise ConfigurationError(f"There is no Ray cluster at engine.address={address}: {error}.") from error


def _check_worker(reply: Message) -> None:
    if reply.has_error() and reply.error.code == UNKNOWN:
        kind = re.search(r"\w+Error", reply.error.reason or "")
        raise WorkerDiedError(
            f"A Ray worker died ({kind[0] if kind else 'without a reason'}), perhaps for lack of memory; "
            "run.log has what Ray says of it."
        )


def _backend(settings: EngineSettings, scratch: Path) -> dict[str, Any]:
    start: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
    if settings.address is not None:
        start |= {"address": settings.address}
    else:
        start |= {"include_dashboard": False, "_temp_dir": str(scratch)}
        if settings.workers is not None:
            start |= {"num_cpus": settings.workers * settings.threads}
    return {"init_args": start, "client_resources": {"num_cpus": settings.threads, "num_gpus": 0.0}}


@contextmanager
def _scratch_directory() -> Iterator[Path]:
    """Give Ray a place that is gone afterwards; a short path, because it makes sockets in it."""
    scratch = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp" if Path("/tmp").is_dir() else None))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Flower and Ray say of themselves out of the user's sight: errors go to the log of the run."""
    for name, value in (("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"), ("RAY_USAGE_STATS_ENABLED", "0")):
        os.environ.setdefault(name, value)
    flower, ours = logging.getLogger("flwr"), logging.getLogger("fedfuse")
    handlers, level, propagate = list(flower.handlers), flower.level, flower.propagate
    flower.handlers, flower.propagate = list(ours.handlers), False
    flower.setLevel(logging.ERROR)
    try:
        yield
    finally:
        flower.handlers, flower.propagate = handlers, propagate
        flower.setLevel(level)
