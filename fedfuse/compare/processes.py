"""The runs of a comparison as processes of their own, several at a time."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Protocol

from fedfuse.compare.outcome import log_path, run_directory
from fedfuse.compare.plan import Plan, Run, key_of
from fedfuse.compare.warm_start import start_warm
from fedfuse.composition import quote
from fedfuse.errors import ConfigurationError

SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_TO_STOP = 30.0  # an interrupted run ends at once, unless it waits for something outside
LONGEST_ERROR = 300  # characters
ERROR_MARK = "fedfuse: error: "
LOCK_FILE = ".lock"


class Process(Protocol):
    """What is used of `subprocess.Popen`."""

    def poll(self) -> int | None:
        """Return the exit code, or None while it goes on."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end."""

    def send_signal(self, sig: int) -> None:
        """Send a signal."""

    def kill(self) -> None:
        """End it at once."""


def run_all(
    runs: Iterable[Run],
    jobs: int,
    start: Callable[[Run], Process],
    ended: Callable[[Run, int], None],
    watch: Callable[[Sequence[Run]], None],
) -> None:
    """Run all, so many at a time; whatever ends this early interrupts those under way and waits for them.

    Parameters
    ----------
    runs : iterable of Run
        In order.
    jobs : int
        How many at a time.
    start : callable
        Starts the process of a run.
    ended : callable
        Told a run and the exit code of its process.
    watch : callable
        Told the runs under way, again and again.
    """
    waiting = deque(runs)
    under_way: dict[Run, Process] = {}
    with _interrupts_at_ease() as stop_if_interrupted:
        try:
            while waiting or under_way:
                while waiting and len(under_way) < jobs:
                    run = waiting.popleft()
                    under_way[run] = start(run)
                codes = {run: process.poll() for run, process in under_way.items()}
                for run, code in codes.items():
                    if code is not None:
                        del under_way[run]
                        ended(run, code)
                watch(tuple(under_way))
                stop_if_interrupted()
                if None in codes.values():
                    time.sleep(SECONDS_BETWEEN_LOOKS)
        except BaseException:
            _stop(list(under_way.values()))
            raise


def start_process(directory: Path, plan: Plan, lock: IO[str], jobs: int, run: Run) -> Process:
    """Start a run in its directory, or what is left of it; its modules are searched where those of this process are.

    Parameters
    ----------
    directory : Path
        That of the comparison.
    plan : Plan
        What the run belongs to.
    lock : file
        See `claim`: the run holds it as well.
    jobs : int
        How many runs there are at a time.
    run : Run
        What to run. Ray starts processes of its own, for which it wants a fresh one.
    """
    words, log = words_of(directory, plan, jobs, run), log_path(directory, run)
    log.parent.mkdir(exist_ok=True)
    if run.engine != "ray":
        return start_warm(words, log, lock)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYTHONUNBUFFERED": "1",  # what is printed stands in the log in its order
        "OMP_NUM_THREADS": str(run.threads),
    }
    with log.open("a", encoding="utf-8") as output:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "fedfuse", "run", *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[lock.fileno()],
            process_group=0,  # Ctrl-C reaches this process alone, which then interrupts each run once
        )


def words_of(directory: Path, plan: Plan, jobs: int, run: Run) -> list[str]:
    """Say what follows ``fedfuse run`` for a run, or for what is left of it; what never began is cleared away.

    Runs side by side have the cores already: none takes them all for workers of its own, unless it is told to.
    """
    path = run_directory(directory, run)
    if (path / "config.yaml").is_file():
        return [f"resume={path}"]
    # A run writes its configuration before anything else, so there is nothing to lose.
    shutil.rmtree(path, ignore_errors=True)
    words = [] if plan.config_dir is None else [f"--config-dir={plan.config_dir}"]
    if jobs > 1 and run.engine == "local" and "engine.workers" not in map(key_of, run.overrides):
        words.append("engine.workers=1")
    return [*words, *run.overrides, "local_baseline=false", f"output={quote(str(path))}"]


def error_of(code: int, log: Path) -> str:
    """Say in one line why a process failed: what its log ends with, or the signal that ended it."""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    said = [line.strip() for line in lines if line.strip()]
    marked = [line for line in said[-3:] if line.startswith(ERROR_MARK)]
    last = (marked or said or [f"exit code {code}"])[-1].removeprefix(ERROR_MARK)
    return "".join(character if character.isprintable() else " " for character in last)[:LONGEST_ERROR]


@contextmanager
def claim(directory: Path) -> Iterator[IO[str]]:
    """Keep others from working in the same directory, until this process and all runs that it has started are over.

    Raises
    ------
    ConfigurationError
        If another one is at work there.
    """
    with (directory / LOCK_FILE).open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"Another fedfuse compare is at work in {directory}, or runs that it has started: wait for them."
            ) from error
        yield file


@contextmanager
def _interrupts_at_ease() -> Iterator[Callable[[], None]]:
    """Keep Ctrl-C from breaking into a file that is being written or a process that is being started.

    What is yielded raises `KeyboardInterrupt` if it was pressed before; a second press counts at once. A request to
    end, or the end of the terminal, is taken alike.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    def stop_if_interrupted() -> None:
        if received:
            raise KeyboardInterrupt

    replaced = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            replaced[number] = signal.signal(number, note)
    try:
        yield stop_if_interrupted
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)


def _stop(processes: Sequence[Process]) -> None:
    """Interrupt processes and wait for them; end them at once when this takes too long, or at a second Ctrl-C."""
    try:
        for process in processes:
            process.send_signal(signal.SIGINT)
        end = time.monotonic() + SECONDS_TO_STOP
        for process in processes:
            process.wait(timeout=max(0.0, end - time.monotonic()))
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        for process in processes:
            process.kill()
            process.wait()
