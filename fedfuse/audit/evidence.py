"""How evidence is collected: beside the grid, where the server's mail passes."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedfuse.audit.audit import Answers
from fedfuse.client.client import Client, ClientSettings, first_state
from fedfuse.client.state import ClientState
from fedfuse.engine.local_grid import LocalGrid
from fedfuse.knowledge import InvalidKnowledgeError, Tensors
from fedfuse.messages import ABSORB, SHARE, Reply, Request


class Witness(Grid):
    """Passes everything on to a local grid and back, and keeps the soft labels, as both ends read them.

    Parameters
    ----------
    grid : LocalGrid
        Runs the clients.
    clients : tuple[Client, ...]
        All of its clients.
    settings : ClientSettings
        How they work.
    """

    def __init__(self, grid: LocalGrid, clients: tuple[Client, ...], settings: ClientSettings) -> None:
        self._grid = grid
        self._clients = clients
        self._settings = settings
        self._shared: dict[int, dict[int, Answers]] = {client.client_id: {} for client in clients}
        self._fused: dict[int, dict[int, Answers]] = {client.client_id: {} for client in clients}

    @property
    def shared(self) -> Mapping[int, tuple[Answers, ...]]:
        """What each client sent, a round after the other."""
        return _in_order(self._shared)

    @property
    def fused(self) -> Mapping[int, tuple[Answers, ...]]:
        """What went back to each client, a round after the other."""
        return _in_order(self._fused)

    @property
    def states(self) -> Mapping[int, ClientState]:
        """What each client has become so far; who was never asked is what it was before round 1."""
        store, states = self._grid.store, {}
        for client in self._clients:
            newest = store.newest(client.client_id)
            state = None if newest is None else store.load(client.client_id, newest)
            states[client.client_id] = state or first_state(client, self._settings)
        return states

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Pass messages on and return the replies."""
        messages = list(messages)
        for message in messages:
            self._see_request(message)
        replies = self._grid.send_and_receive(messages, timeout=timeout)
        for reply in replies:
            self._see_reply(reply)
        return replies

    def _see_request(self, message: Message) -> None:
        if message.metadata.message_type not in (SHARE, ABSORB):
            return
        request = Request.from_record(message.content)
        if request.fused is not None and "soft_labels" in request.fused:
            client = message.metadata.dst_node_id - 1  # as the local grid numbers its nodes
            self._fused[client][request.fused_round] = self._read(request.fused["soft_labels"])

    def _see_reply(self, message: Message) -> None:
        if message.metadata.message_type != SHARE or message.has_error():
            return
        try:
            reply = Reply.from_record(message.content)
            if reply.knowledge is not None and "soft_labels" in reply.knowledge.carriers:
                self._shared[reply.client_id][reply.round] = self._read(reply.knowledge.carriers["soft_labels"])
        except InvalidKnowledgeError:
            return  # the server leaves it out too, and says why

    def _read(self, tensors: Tensors) -> Answers:
        settings = self._settings
        num_transfer = len(settings.transfer)
        decoded = settings.encoding.decode(tensors, num_transfer, settings.num_classes, settings.dtype)
        rows = decoded["rows"].to(torch.int64) if "rows" in decoded else torch.arange(num_transfer)
        return rows, decoded["soft_labels"].to(settings.dtype)

    # -- the rest of Flower's interface --------------------------------------------------------------------------------

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Pass messages on; those that a strategy of one's own sends like this are not kept."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to messages that were pushed."""
        return self._grid.pull_messages(message_ids)

    def get_node_ids(self) -> list[int]:
        """Return the node ids of all clients, ascending."""
        return self._grid.get_node_ids()

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
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)


def _in_order(answers: Mapping[int, Mapping[int, Answers]]) -> dict[int, tuple[Answers, ...]]:
    return {client: tuple(own[round] for round in sorted(own)) for client, own in answers.items()}
