"""Worker processes, for all cores of this machine: who owns which client, what they are asked, and when one is gone.

The clients' states never move. A worker writes those of its clients into the file of all states before it replies, so
that they outlive it; messages alone go back and forth.
"""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import Self

import torch
from flwr.app import RecordDict

from fedfuse.client.client import Client, ClientSettings
from fedfuse.configuration import EngineSettings
from fedfuse.device import Device
from fedfuse.engine import sequential
from fedfuse.engine.letters import Answers, Duty, Log, Post, Questions, Ready, Unable, Verb, anonymous_file
from fedfuse.engine.runner import choose_runner
from fedfuse.errors import ConfigurationError, FedfuseError
from fedfuse.messages import Failure

logger = logging.getLogger(__name__)

# Operations of a whole run: below this (some 20 seconds of one core) starting processes costs more than they give.
LEAST_OPERATIONS = 10**12
# Operations of a client in a round: below this (some 5 milliseconds) its messages to another process cost more.
LEAST_OF_A_CLIENT = 2 * 10**8
# A training step goes forward once, and back for about twice as much.
PASSES_OF_A_STEP = 3


class WorkerError(FedfuseError):
    """A worker process cannot start, or cannot go on."""


def choose_number(
    engine: EngineSettings, clients: Sequence[Client], settings: ClientSettings, num_rounds: int, device: Device
) -> int:
    """Choose how many processes compute the clients, by a fixed rule that follows from the configuration alone.

    Clients that are trained together stay together, because with whom a client is trained changes how its numbers are
    rounded: there are at most as many workers as there are such cohorts and clients that are trained alone. Results are
    the same for every number of workers, bit by bit.

    Parameters
    ----------
    engine : EngineSettings
        How the work is executed. Where ``workers`` is None, all cores of the machine that this process may use are
        used if that is worth it, which it is from `LEAST_OPERATIONS` in all and `LEAST_OF_A_CLIENT` on; or else one.
    clients : Sequence[Client]
        All clients.
    settings : ClientSettings
        How every client works.
    num_rounds : int
        How many rounds the run has.
    device : Device
        Where the clients are computed.

    Returns
    -------
    int
        The number of workers; 1 stands for this process.

    Raises
    ------
    ConfigurationError
        If several are asked for on a CUDA device.
    """
    if device.is_cuda:
        if engine.workers not in (None, 1):
            raise ConfigurationError(
                f"engine.workers={engine.workers} is for device=cpu; one process computes on a CUDA device."
            )
        return 1
    if engine.runner == "probe":  # which found out what is quicker in one process
        return 1
    wanted = engine.workers
    if wanted is None:
        of_a_round = sum(_operations(client, settings) for client in clients)
        small = of_a_round * num_rounds < LEAST_OPERATIONS or of_a_round < LEAST_OF_A_CLIENT * len(clients)
        wanted = 1 if small else max(1, num_cores() // engine.threads)
    return min(wanted, len(_inseparable(clients, engine.runner)))


def num_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def deal(clients: Sequence[Client], settings: ClientSettings, runner: str, number: int) -> list[list[Client]]:
    """Deal the clients to so many workers, so that all have about as much to do.

    Parameters
    ----------
    clients : Sequence[Client]
        All clients.
    settings : ClientSettings
        How every client works.
    runner : str
        See `fedfuse.engine.runner.choose_runner`: clients that it trains together go to one worker.
    number : int
        The number of workers.

    Returns
    -------
    list[list[Client]]
        The clients of each worker, by client id.
    """
    hands: list[list[Client]] = [[] for _ in range(number)]
    loads = [0] * number

    def load(group: Sequence[Client]) -> int:
        return sum(_operations(client, settings) for client in group)

    # What is most goes first, to whoever has least so far.
    for group in sorted(_inseparable(clients, runner), key=load, reverse=True):
        hand = loads.index(min(loads))
        hands[hand] += group
        loads[hand] += load(group)
    return [sorted(hand, key=lambda client: client.client_id) for hand in hands]


def _inseparable(clients: Sequence[Client], runner: str) -> list[list[Client]]:
    """Group the clients that are trained together; one that is trained alone is a group of its own."""
    groups: dict[tuple[str, int | None], list[Client]] = {}
    for client in clients:
        alone = choose_runner(runner, client.architecture) is sequential.fit
        groups.setdefault((client.architecture.signature, client.client_id if alone else None), []).append(client)
    return list(groups.values())


def _operations(client: Client, settings: ClientSettings) -> int:
    """Count the floating point operations of a client's training in a round."""
    private = len(client.data.train) * settings.learn.epochs
    return PASSES_OF_A_STEP * client.architecture.flops * (private + len(settings.transfer) * settings.absorb.epochs)


@dataclass
class _Worker:
    """A worker process, and the line to it."""

    number: int
    duty: Duty
    process: subprocess.Popen[bytes]
    post: Post
    ready: bool = False

    def stop(self) -> int:
        """End it, and return its exit code. What it has not answered can be repeated: states are written as a whole."""
        self.post.close()
        self.process.kill()
        return self.process.wait()


class Workers:
    """Processes that own the clients of a run. Leaving the context ends them.

    Parameters
    ----------
    clients : Sequence[Client]
        All clients.
    settings : ClientSettings
        How every client works.
    engine : EngineSettings
        How the work is executed.
    number : int
        How many processes, see `choose_number`.
    states : Path
        The file in which the clients' states are kept, see `fedfuse.client.state_file.StateFile`.
    verb : Callable[[str, int, int], None], optional
        Told each verb as it begins, with the number of clients done and in all.

    Raises
    ------
    ConfigurationError
        If something of the clients cannot be handed to another process.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        settings: ClientSettings,
        engine: EngineSettings,
        number: int,
        states: Path,
        verb: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self._verb = verb
        self._parts = _write_parts(clients, settings)
        self._workers: list[_Worker] = []
        hands = deal(clients, settings, engine.runner, number)
        try:
            for index, hand in enumerate(hands):
                ids = frozenset(client.client_id for client in hand)
                self._workers.append(self._start(index + 1, Duty(ids, engine.runner, engine.threads, states.resolve())))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Return the workers, which have been started."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End all processes."""
        self.close()

    def close(self) -> None:
        """End all processes, at once."""
        for worker in self._workers:
            worker.stop()
        self._workers.clear()
        os.close(self._parts)

    def answer(self, kind: str, records: Mapping[int, RecordDict]) -> dict[int, RecordDict]:
        """Let the clients answer messages.

        A worker that is gone is named in the log and started again. Its clients fail in this phase; in the next round
        they go on from the last states that it wrote.

        Parameters
        ----------
        kind : str
            The type of the messages.
        records : Mapping[int, RecordDict]
            What the messages say, by client id.

        Returns
        -------
        dict[int, RecordDict]
            What each client replies.

        Raises
        ------
        WorkerError
            If a worker cannot start, or cannot write states.
        """
        asked: dict[int, list[int]] = {}
        answers: dict[int, RecordDict] = {}
        done = dict.fromkeys(range(len(self._workers)), 0)
        for index, worker in enumerate(self._workers):
            own = {client_id: records[client_id] for client_id in records if client_id in worker.duty.client_ids}
            if own:
                asked[index] = list(own)
                _try_to_send(worker.post, Questions(kind, own))
        while asked:
            readable = wait([self._workers[index].post.fileno() for index in asked])
            for index in [index for index in asked if self._workers[index].post.fileno() in readable]:
                try:
                    letter = self._workers[index].post.receive()
                except (EOFError, OSError):
                    answers |= self._replace(index, asked.pop(index))
                    continue
                match letter:
                    case Ready():
                        self._workers[index].ready = True
                    case Unable(reason):
                        if self._workers[index].ready:
                            raise WorkerError(f"Worker {index + 1} cannot go on: {reason}.")
                        raise WorkerError(f"Worker {index + 1} cannot start: {reason}; see engine.workers.")
                    case Verb(name, number):
                        done[index] = number
                        if self._verb is not None:
                            self._verb(name, sum(done.values()), len(records))
                    case Log(record):
                        logging.getLogger(record.name).handle(record)
                    case Answers(own):
                        answers |= own
                        done[index] = len(asked.pop(index))
        return answers

    def _start(self, number: int, duty: Duty) -> _Worker:
        here, there = Pipe()
        down, up = anonymous_file(), anonymous_file()
        post = Post(here, down, up)
        inherited = [there.fileno(), up, down, self._parts]
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "fedfuse.engine.worker", *map(str, inherited)],
                # Modules are searched where they are searched here.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": str(duty.threads)},
                stdin=subprocess.DEVNULL,
                pass_fds=inherited,
                process_group=0,  # Ctrl-C reaches the run alone, which then ends its workers
            )
        except OSError as error:
            post.close()
            raise WorkerError(f"Worker {number} cannot start: {error}; see engine.workers.") from error
        finally:
            there.close()
        _try_to_send(post, duty)
        return _Worker(number, duty, process, post)

    def _replace(self, index: int, client_ids: Sequence[int]) -> dict[int, RecordDict]:
        """Start a worker that is gone again, and say for the clients that it owes an answer that there is none."""
        worker = self._workers[index]
        code = worker.stop()
        ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if not worker.ready:
            raise WorkerError(f"Worker {worker.number} ended ({ended}) before it could work; see engine.workers.")
        logger.error(
            "worker %d died (%s), perhaps for lack of memory; it is started again, and without an answer in this phase "
            "are its clients %s",
            worker.number,
            ended,
            ", ".join(map(str, client_ids)),
        )
        self._workers[index] = self._start(worker.number, worker.duty)
        failure = Failure("died", f"worker {worker.number}, the process that computes this client, died ({ended})")
        return dict.fromkeys(client_ids, failure.to_record())


def _try_to_send(post: Post, letter: object) -> None:
    """Send a letter; that nobody is there to receive it shows when the answer is awaited."""
    try:
        post.send(letter)
    except ConnectionError:
        logger.debug("a letter to a worker was not received")


def _write_parts(clients: Sequence[Client], settings: ClientSettings) -> int:
    """Write clients and settings where all workers can read them, and return its descriptor.

    What several of them hold, for example the transfer set, is written once.
    """
    descriptor = anonymous_file()
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            torch.save((tuple(clients), settings), file)
    except Exception as error:  # the user's own parts can raise anything
        os.close(descriptor)
        raise ConfigurationError(
            f"Something of this run cannot be handed to worker processes ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); engine.workers=1 does without."
        ) from error
    return descriptor
