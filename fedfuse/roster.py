"""Who takes part: the nodes that were asked to describe themselves, and what is expected of their knowledge."""

import time
from dataclasses import dataclass, field, replace

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fedfuse.carriers.expectation import Expectation
from fedfuse.errors import FedfuseError
from fedfuse.knowledge import InvalidKnowledgeError
from fedfuse.messages import DESCRIBE, Description
from fedfuse.metrics import LeftOut
from fedfuse.server import Server

SECONDS_BETWEEN_LOOKS = 1.0
UNKNOWN_CLIENT = -1
LONGEST_REST = 8  # rounds


@dataclass(frozen=True)
class Refusal:
    """How often a node has been left out, and for how many rounds it is not asked again."""

    times: int = 0
    rounds_to_rest: int = 0

    def again(self) -> "Refusal":
        """Count one more."""
        return Refusal(self.times + 1, min(2**self.times, LONGEST_REST))

    def later(self) -> "Refusal":
        """Let a round go by."""
        return Refusal(self.times, self.rounds_to_rest - 1)


@dataclass
class Roster:
    """The clients that can be asked.

    Parameters
    ----------
    server : Server
        Says what a client must have: the transfer set, the classes, an architecture that is configured.

    Attributes
    ----------
    descriptions : dict[int, Description]
        By client id.
    nodes : dict[int, int]
        Flower's node id by client id.
    refused : dict[int, Refusal]
        By node id, those that were left out when they were asked last.
    """

    server: Server
    descriptions: dict[int, Description] = field(default_factory=dict)
    nodes: dict[int, int] = field(default_factory=dict)
    refused: dict[int, Refusal] = field(default_factory=dict)

    def wait_for(self, grid: Grid, number: int, timeout: float) -> None:
        """Wait until so many nodes are connected.

        Raises
        ------
        FedfuseError
            If they are not within ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while (connected := len(list(grid.get_node_ids()))) < number:
            if time.monotonic() > deadline:
                raise FedfuseError(f"Only {connected} of {number} clients connected within {timeout:g} s.")
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def describe_new_nodes(self, grid: Grid, timeout: float) -> list[LeftOut]:
        """Ask nodes that are new to describe themselves, and forget those that are gone.

        A node that is left out stays new, because its fault may pass: it is asked again in the next round, then after
        two, four and eight rounds each time, since one that is silent costs the whole timeout each time.

        Returns
        -------
        list[LeftOut]
            Nodes that gave no answer or do not fit this run, with the reason.
        """
        connected = set(grid.get_node_ids())
        self.nodes = {client: node for client, node in self.nodes.items() if node in connected}
        self.refused = {node: refusal.later() for node, refusal in self.refused.items() if node in connected}
        resting = {node for node, refusal in self.refused.items() if refusal.rounds_to_rest > 0}
        new = sorted(connected - set(self.nodes.values()) - resting)
        if not new:
            return []
        messages = [Message(RecordDict(), dst_node_id=node, message_type=DESCRIBE) for node in new]
        reasons = dict.fromkeys(new, "gave no reply in time")
        unheard = set(new)
        for reply in grid.send_and_receive(messages, timeout=timeout):
            node = reply.metadata.src_node_id
            if node not in unheard:
                continue
            unheard.remove(node)
            try:
                description = self._accept(reply)
            except InvalidKnowledgeError as error:
                reasons[node] = str(error)
                continue
            del reasons[node]
            self.refused.pop(node, None)
            # They are the server's: thousands of clients need no copies of their own.
            description = replace(description, class_names=self.server.class_names)
            self.descriptions[description.client_id] = description
            self.nodes[description.client_id] = node
        self.refused |= {node: self.refused.get(node, Refusal()).again() for node in reasons}
        return [LeftOut(UNKNOWN_CLIENT, "describe", f"node {node}: {reason}") for node, reason in reasons.items()]

    def _accept(self, reply: Message) -> Description:
        if reply.has_error():
            raise InvalidKnowledgeError(f"error {reply.error.code}")
        description = Description.from_record(reply.content)
        client, server = description.client_id, self.server
        if client < 0 or client in self.nodes:
            raise InvalidKnowledgeError(f"client id {client} is taken or out of range")
        if description.transfer_digest != server.transfer_digest:
            raise InvalidKnowledgeError(f"client {client} holds another transfer set")
        if description.class_names != server.class_names:
            raise InvalidKnowledgeError(f"client {client} has other classes")
        known = server.architectures.get(description.architecture)
        if known is None or known.embedding_size != description.embedding_size:
            raise InvalidKnowledgeError(f"client {client} has a model that is not configured here")
        return description

    def expectation(self, client_id: int, round: int, rows: Tensor) -> Expectation:
        """Return what a client's knowledge must look like."""
        architecture = self.server.architectures[self.descriptions[client_id].architecture]
        return Expectation(
            client_id=client_id,
            round=round,
            num_classes=self.server.num_classes,
            num_transfer=self.server.num_transfer,
            rows=rows,
            architecture=architecture.signature,
            shapes=architecture.shapes,
            embedding_size=architecture.embedding_size,
        )

    def clients_by_node(self) -> dict[int, int]:
        """Return the client id of each node that is connected."""
        return {node: client for client, node in self.nodes.items()}
