"""Start runs from a process that has imported everything already, so that each begins seconds earlier."""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import IO, Any

# What every run imports before its first round: most of its start.
PRELOADED = ["fedfuse.cli", "fedfuse.simulate", "flwr_datasets.partitioner", "torch._dynamo", "matplotlib.figure"]


class WarmProcess:
    """A run that was forked off, with what is used of `subprocess.Popen`."""

    def __init__(self, process: BaseProcess) -> None:
        self._process = process

    def poll(self) -> int | None:
        """Return the exit code, minus the signal that ended it, or None while it goes on."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end.

        Raises
        ------
        subprocess.TimeoutExpired
            If it takes longer.
        """
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("fedfuse run", timeout or 0)
        return code

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None and self._process.pid is not None:
            os.kill(self._process.pid, sig)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()


def prepare() -> None:
    """Start the process that runs are forked off from; it finds modules where this process does, and nowhere else.

    It has one thread: a run sets the number of its own.
    """
    # The server takes over this environment, and would else look for modules in the working directory first.
    os.environ.update(PYTHONPATH=os.pathsep.join(sys.path), PYTHONSAFEPATH="1", OMP_NUM_THREADS="1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)


def start_warm(words: Sequence[str], log: Path, lock: IO[str]) -> WarmProcess:
    """Start ``fedfuse run``.

    Parameters
    ----------
    words : Sequence[str]
        What follows ``fedfuse run``.
    log : Path
        What is printed is added to this file.
    lock : file
        The run holds it as well, open and locked, until it ends.
    """
    context = multiprocessing.get_context("forkserver")
    # How its file descriptor is passed on is decided while the process is being started.
    process = context.Process(target=_run, args=(tuple(words), str(log), _Inherited(lock.fileno())))
    process.start()
    return WarmProcess(process)


class _Inherited:
    """A file descriptor that goes along with a process."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor: Any = descriptor

    def __getstate__(self) -> dict[str, Any]:
        return {"descriptor": DupFd(self.descriptor)}

    def detach(self) -> int:
        """Take it over, in the process that was started."""
        taken: int = self.descriptor.detach()
        return taken


def _run(words: Sequence[str], log: str, lock: _Inherited) -> None:
    os.setpgid(0, 0)  # Ctrl-C reaches the process that compares alone, which then interrupts each run once
    lock.detach()
    with open(os.devnull, "rb") as nothing, open(log, "ab") as output:  # noqa: PTH123 what follows wants descriptors
        os.dup2(nothing.fileno(), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["fedfuse", "run", *words]
    runpy.run_module("fedfuse", run_name="__main__")  # it exits with the code of the run
