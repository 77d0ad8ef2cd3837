import functools
from dataclasses import replace

import pytest
import torch
from flwr.app import ConfigRecord, Error, Message, RecordDict

from fedfuse.client import phases
from fedfuse.composition import compose
from fedfuse.data.federation import TransferSet
from fedfuse.engine.local_grid import LocalGrid
from fedfuse.errors import FedfuseError
from fedfuse.metrics import LeftOut
from fedfuse.roster import Roster
from fedfuse.simulate import assemble

TIMEOUT = 0.05


@functools.cache
def simulation():
    overrides = ["num_clients=3", "transfer.size=40", "model=[mlp_small,cnn_small]"]
    return assemble(compose(overrides))


class Nodes(LocalGrid):
    """Clients by node id, of which some can be hidden, silent or replaced, and all that they were asked."""

    def __init__(self, change=None):
        super().__init__(simulation().clients, simulation().settings)
        self.change = change or (lambda reply: [reply])
        self.hidden = set()
        self.asked = []

    def get_node_ids(self):
        return [node for node in super().get_node_ids() if node not in self.hidden]

    def send_and_receive(self, messages, *, timeout=None):
        assert timeout == TIMEOUT
        self.asked.append([message.metadata.dst_node_id for message in messages])
        return [changed for reply in super().send_and_receive(messages) for changed in self.change(reply)]


def roster_of():
    return Roster(simulation().server)


def only(node, change):
    """Change what one node replies."""
    return lambda reply: change(reply) if reply.metadata.src_node_id == node else [reply]


def described(**values):
    def change(reply):
        reply.content["description"] = ConfigRecord({**reply.content["description"], **values})
        return [reply]

    return change


def in_error(reply):
    failed = Message(Error(5, "/home/alice"), reply_to=reply)
    failed.metadata.__dict__["_src_node_id"] = reply.metadata.src_node_id
    return [failed]


def emptied(reply):
    reply.content = RecordDict()
    return [reply]


def test_all_clients_are_met_once():
    roster, nodes = roster_of(), Nodes()
    assert roster.describe_new_nodes(nodes, TIMEOUT) == []
    assert roster.nodes == {0: 1, 1: 2, 2: 3}
    assert roster.clients_by_node() == {1: 0, 2: 1, 3: 2}
    clients, settings = simulation().clients, simulation().settings
    assert roster.descriptions == {client.client_id: phases.describe(client, settings) for client in clients}
    assert all(one.class_names is roster.server.class_names for one in roster.descriptions.values())
    assert roster.describe_new_nodes(nodes, TIMEOUT) == []
    assert nodes.asked == [[1, 2, 3]]


OTHER_SIZE = {"embedding-size": 7}
UNFIT = {
    "transfer": (described(**{"transfer-digest": "0" * 16}), "client 1 holds another transfer set"),
    "classes": (described(**{"class-names": '["cat", "dog"]'}), "client 1 has other classes"),
    "class-order": (
        described(**{"class-names": '["1", "0", "2", "3", "4", "5", "6", "7", "8", "9"]'}),
        "client 1 has other classes",
    ),
    "architecture": (described(architecture="f" * 16), "client 1 has a model that is not configured here"),
    "embedding": (described(**OTHER_SIZE), "client 1 has a model that is not configured here"),
    "negative-id": (described(**{"client-id": -1}), "client id -1 is taken or out of range"),
    "taken-id": (described(**{"client-id": 0}), "client id 0 is taken or out of range"),
    "text-id": (described(**{"client-id": "one"}), "client-id is no integer"),
    "malformed": (emptied, "malformed message (KeyError)"),
    "error": (in_error, "error 5"),
    "silence": (lambda reply: [], "gave no reply in time"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_node_that_does_not_fit_is_named_and_the_others_are_met(name):
    change, reason = UNFIT[name]
    roster, nodes = roster_of(), Nodes(only(2, change))
    left_out = [LeftOut(-1, "describe", f"node 2: {reason}")]
    assert roster.describe_new_nodes(nodes, TIMEOUT) == left_out
    assert roster.nodes == {0: 1, 2: 3}
    # It is asked, and named, until it fits; less and less often, because a silent one costs the timeout each time.
    answers = [roster.describe_new_nodes(nodes, TIMEOUT) for _ in range(30)]
    assert [2 + round for round, answer in enumerate(answers) if answer == left_out] == [2, 4, 8, 16, 24]
    assert sum(map(bool, answers)) == 5
    nodes.change = lambda reply: [reply]
    assert roster.describe_new_nodes(nodes, TIMEOUT) == []
    assert roster.nodes == {0: 1, 1: 2, 2: 3}
    assert nodes.asked == [[1, 2, 3], *[[2]] * 6]
    assert roster.refused == {}


def test_a_node_that_was_left_out_and_is_connected_anew_is_asked_at_once():
    change, _ = UNFIT["silence"]
    roster, nodes = roster_of(), Nodes(only(2, change))
    for _ in range(3):
        roster.describe_new_nodes(nodes, TIMEOUT)
    nodes.hidden = {2}
    roster.describe_new_nodes(nodes, TIMEOUT)
    nodes.hidden, nodes.change = set(), lambda reply: [reply]
    assert roster.describe_new_nodes(nodes, TIMEOUT) == []
    assert roster.nodes == {0: 1, 1: 2, 2: 3}


def test_a_client_with_another_transfer_set_really_has_another_digest():
    own = simulation().settings.transfer.inputs
    other = replace(simulation().settings, transfer=TransferSet(own.flip(0)))
    grid = Nodes()
    grid._settings = other
    left_out = roster_of().describe_new_nodes(grid, TIMEOUT)
    assert [entry.reason for entry in left_out] == [
        f"node {node}: client {node - 1} holds another transfer set" for node in (1, 2, 3)
    ]
    assert other.transfer.digest == TransferSet(own.flip(0)).digest != simulation().settings.transfer.digest


def test_a_client_that_comes_back_as_another_node_is_met_when_the_old_one_is_gone():
    roster, nodes = roster_of(), Nodes()
    nodes._clients[7] = nodes._clients[2]
    nodes.hidden = {7}
    roster.describe_new_nodes(nodes, TIMEOUT)
    nodes.hidden = set()
    (left_out,) = roster.describe_new_nodes(nodes, TIMEOUT)
    assert left_out.reason == "node 7: client id 1 is taken or out of range"
    nodes.hidden = {2}
    assert roster.describe_new_nodes(nodes, TIMEOUT) == []
    assert roster.nodes == {0: 1, 1: 7, 2: 3}


def test_a_node_that_is_gone_is_forgotten_but_not_its_description():
    roster, nodes = roster_of(), Nodes()
    roster.describe_new_nodes(nodes, TIMEOUT)
    nodes.hidden = {2}
    assert roster.describe_new_nodes(nodes, TIMEOUT) == []
    assert roster.nodes == {0: 1, 2: 3}
    assert sorted(roster.descriptions) == [0, 1, 2]
    assert nodes.asked == [[1, 2, 3]]  # nobody new, so nobody was asked


def test_one_reply_of_each_node_that_was_asked_counts():
    def forge(reply):
        twin = Message(reply.content, reply_to=reply)
        twin.metadata.__dict__["_src_node_id"] = 99
        return [twin, reply, reply]

    roster = roster_of()
    assert roster.describe_new_nodes(Nodes(forge), TIMEOUT) == []
    assert roster.nodes == {0: 1, 1: 2, 2: 3}


def test_expectation_is_that_of_the_clients_own_architecture():
    roster = roster_of()
    roster.describe_new_nodes(Nodes(), TIMEOUT)
    rows = torch.tensor([1, 5])
    for client in simulation().clients:
        expected = roster.expectation(client.client_id, 4, rows)
        assert (expected.client_id, expected.round, expected.rows) == (client.client_id, 4, rows)
        assert (expected.num_classes, expected.num_transfer) == (10, 40)
        assert expected.architecture == client.architecture.signature
        assert expected.shapes == client.architecture.shapes
        assert expected.embedding_size == client.architecture.embedding_size
    assert roster.expectation(0, 4, rows).architecture != roster.expectation(1, 4, rows).architecture


def test_wait_for_returns_as_soon_as_enough_are_connected(monkeypatch):
    waits = []
    nodes = Nodes()
    nodes.hidden = {2, 3}

    def sleep(seconds):
        waits.append(seconds)
        nodes.hidden.discard(3 if len(waits) == 1 else 2)

    monkeypatch.setattr("fedfuse.roster.time.sleep", sleep)
    roster_of().wait_for(nodes, 3, 60)
    assert waits == [1.0, 1.0]
    roster_of().wait_for(nodes, 3, 60)
    assert len(waits) == 2


def test_wait_for_gives_up_after_the_timeout(monkeypatch):
    times = iter([100.0, 104.0, 110.5])
    monkeypatch.setattr("fedfuse.roster.time.monotonic", lambda: next(times))
    monkeypatch.setattr("fedfuse.roster.time.sleep", lambda seconds: None)
    with pytest.raises(FedfuseError, match=r"^Only 3 of 4 clients connected within 10 s\.$"):
        roster_of().wait_for(Nodes(), 4, 10)
    assert next(times, None) is None
