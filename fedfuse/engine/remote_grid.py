"""A grid of Flower's own, Ray's or a SuperLink's, asked in our way: all messages go out, replies are seen early."""

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedfuse.errors import FedfuseError


class StoppedError(FedfuseError):
    """The run was told to stop while it waited for replies."""


class RemoteGrid(Grid):
    """Sends messages one by one, because together they can be more than a SuperLink takes, and looks often.

    Parameters
    ----------
    grid : Grid
        Flower's own.
    seconds_between_looks : float
        How long to wait before asking again for replies; Flower's own grids wait 3 s.
    verb : Callable[[str, int, int], None], optional
        Told the kind of message, the replies so far and the number that was sent.
    check : Callable[[Message], None], optional
        Sees every reply; may raise to stop the run.
    stopped : threading.Event, optional
        When set, waiting ends with a `StoppedError`.
    """

    def __init__(
        self,
        grid: Grid,
        seconds_between_looks: float,
        verb: Callable[[str, int, int], None] = lambda verb, done, total: None,
        check: Callable[[Message], None] = lambda reply: None,
        stopped: threading.Event | None = None,
    ) -> None:
        self._grid = grid
        self._seconds_between_looks = seconds_between_looks
        self._verb = verb
        self._check = check
        self._stopped = stopped or threading.Event()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages and return the replies that come in time, sorted by node id."""
        messages = list(messages)
        for message in messages:
            if timeout is not None:
                # A node that comes back later must not spend its time on what nobody waits for any more.
                message.metadata.ttl = timeout
        waiting = set(self.push_messages(messages))
        verb = messages[0].metadata.message_type.rpartition(".")[2] if messages else ""
        deadline = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while waiting:
            for reply in self._grid.pull_messages(sorted(waiting)):
                self._check(reply)
                replies.append(reply)
                waiting.discard(reply.metadata.reply_to_message_id)
            self._verb(verb, len(replies), len(messages))
            if not waiting or (deadline is not None and time.monotonic() > deadline):
                break
            if self._stopped.wait(self._seconds_between_looks):
                raise StoppedError("The run was stopped while it waited for replies.")
        return sorted(replies, key=lambda reply: reply.metadata.src_node_id)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages; one whose node is gone has no id here, and will have no reply."""
        return [message_id for message in messages for message_id in self._grid.push_messages([message]) if message_id]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are there."""
        return list(self._grid.pull_messages(message_ids))

    def get_node_ids(self) -> list[int]:
        """Return the nodes that are connected, ascending."""
        return sorted(self._grid.get_node_ids())

    def set_run(self, run: Any) -> None:  # noqa: ANN401 Flower's type for it is private
        """Set the run that messages belong to."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:  # noqa: ANN401 as above
        """The run that messages belong to."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)
