"""What a worker process does: it owns some clients, and computes for them whatever it is asked, until nobody asks.

Started by `fedfuse.engine.workers` as a process of its own, with the descriptors that it inherits as arguments.
"""

import logging
import sys
from contextlib import closing
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection

import torch

from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.state import StateStore
from fedfuse.client.state_file import StateFile
from fedfuse.engine.letters import Answers, Duty, Log, Post, Questions, Ready, Unable, Verb
from fedfuse.engine.local_grid import LocalGrid


def main() -> None:
    """Work until the other end of the line is gone; the arguments are its descriptors and that of the parts file."""
    connection, outgoing, incoming, parts = map(int, sys.argv[1:])
    post = Post(Connection(connection), outgoing, incoming)
    try:
        work(post, parts)
    except (EOFError, ConnectionError):
        return  # the run is over, or its process is gone


def work(post: Post, parts: int) -> None:
    """Answer letters, one after the other.

    Parameters
    ----------
    post : Post
        The line to the process of the run.
    parts : int
        The descriptor of a file with all clients and their settings, as `torch.save` writes them.

    Raises
    ------
    EOFError, ConnectionError
        If nobody is at the other end any more.
    """
    duty: Duty = post.receive()
    logger = logging.getLogger("fedfuse")
    logger.addHandler(_Teller(post))
    logger.propagate = False
    torch.set_num_threads(duty.threads)
    try:
        with closing(StateFile(duty.states)) as states:
            grid = _make_grid(duty, post, parts, states)
            post.send(Ready())
            while True:
                questions: Questions = post.receive()
                answers = _answer(questions, grid)
                # Whoever has the answers may rely on the states that they were given from.
                states.commit()
                post.send(answers)
    except (EOFError, ConnectionError):
        raise
    except Exception as error:  # the user's own parts can raise anything, and a disk can be full
        logger.exception("a worker has to end")
        post.send(Unable(f"{type(error).__name__}: {' '.join(str(error).split())}"))


def _answer(questions: Questions, grid: LocalGrid) -> Answers:
    messages = [
        grid.create_message(record, questions.kind, client_id + 1, "")
        for client_id, record in questions.records.items()
    ]
    replies = grid.send_and_receive(messages)
    return Answers({reply.metadata.src_node_id - 1: reply.content for reply in replies})


def _make_grid(duty: Duty, post: Post, parts: int, states: StateStore) -> LocalGrid:
    # Mapped, not read: all workers have the same pages, and of other workers' clients none.
    clients: tuple[Client, ...]
    settings: ClientSettings
    clients, settings = torch.load(f"/dev/fd/{parts}", mmap=True, weights_only=False)
    return LocalGrid(
        [client for client in clients if client.client_id in duty.client_ids],
        settings,
        duty.runner,
        lambda name, done, total: post.send(Verb(name, done)),
        store=states,
    )


class _Teller(QueueHandler):
    """Tells the run's process what there is to log, and that process keeps the log."""

    def __init__(self, post: Post) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self._post = post

    def enqueue(self, record: logging.LogRecord) -> None:
        self._post.send(Log(record))


if __name__ == "__main__":
    main()
