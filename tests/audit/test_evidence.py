import pytest
import torch
from flwr.app import Error, Message

from fedfuse.audit.evidence import Witness
from fedfuse.client.client import first_state
from fedfuse.encoding.uint8 import uint8
from fedfuse.engine.local_grid import LocalGrid
from fedfuse.messages import ABSORB, DESCRIBE, SHARE, Description, Reply, Request
from fedfuse.privacy.noise import Noise

NUM_TRANSFER = 10


@pytest.fixture
def watched(make_clients, make_settings):
    """Return a function that makes a witness beside three clients."""

    def make(**changes):
        clients, settings = make_clients(sizes=(5, 16, 17)), make_settings(**changes)
        return Witness(LocalGrid(clients, settings), clients, settings), clients, settings

    return make


def ask(grid, message_type, request, nodes=(1, 2, 3)):
    messages = [Message(request.to_record(), dst_node_id=node, message_type=message_type) for node in nodes]
    return grid.send_and_receive(messages)


def sent_in(replies):
    return [Reply.from_record(reply.content).knowledge.carriers["soft_labels"]["soft_labels"] for reply in replies]


def test_what_clients_sent_is_kept_by_client_and_round_as_it_was_sent(watched, share_request):
    grid, _, _ = watched(protectors=(Noise(0.2),))
    sent = [sent_in(ask(grid, SHARE, share_request(round))) for round in (1, 2)]
    assert list(grid.shared) == [0, 1, 2]
    for client, rounds in grid.shared.items():
        assert len(rounds) == 2
        for round, (rows, soft_labels) in enumerate(rounds):
            assert rows.tolist() == list(range(NUM_TRANSFER))
            assert torch.equal(soft_labels, sent[round][client])
    assert not torch.equal(grid.shared[0][0][1], grid.shared[0][1][1])


def test_what_is_encoded_is_kept_as_the_server_reads_it_on_the_rows_that_were_asked_for(watched, share_request):
    encoding = uint8(levels=510, compressed=True)
    grid, _, settings = watched(encoding=encoding)
    rows = torch.tensor([1, 4, 9])
    (reply,) = ask(grid, SHARE, share_request(rows=rows, compact=True), nodes=[2])
    travelled = Reply.from_record(reply.content).knowledge.carriers["soft_labels"]
    ((kept_rows, kept),) = grid.shared[1]
    assert (kept_rows.tolist(), kept_rows.dtype) == ([1, 4, 9], torch.int64)
    assert torch.equal(kept, encoding.decode(travelled, NUM_TRANSFER, 3, settings.dtype)["soft_labels"])
    assert grid.shared[0] == grid.shared[2] == ()


def test_what_went_back_is_kept_by_the_round_that_it_was_fused_in(watched, share_request, fused_soft_labels):
    grid, _, _ = watched()
    first, second = fused_soft_labels(rows=[0, 3], seed=1), fused_soft_labels(seed=2)
    ask(grid, SHARE, share_request())
    ask(grid, ABSORB, Request(1, fused={"soft_labels": first}, fused_round=1), nodes=[1])
    ask(grid, SHARE, share_request(2, fused={"soft_labels": first}, fused_round=1), nodes=[1])
    assert len(grid.fused[0]) == 1  # sent again, because the server could not know that it had come
    ask(grid, ABSORB, Request(2, fused={"soft_labels": second}, fused_round=2), nodes=[1])
    (rows, soft_labels), (all_rows, later) = grid.fused[0]
    assert rows.tolist() == [0, 3]
    assert torch.equal(soft_labels, first["soft_labels"])
    assert all_rows.tolist() == list(range(NUM_TRANSFER))
    assert torch.equal(later, second["soft_labels"])
    assert grid.fused[1] == ()


def test_other_knowledge_is_not_kept(watched, share_request):
    grid, _, _ = watched()
    ask(grid, SHARE, share_request(sends=("prototypes",)))
    assert grid.shared == {0: (), 1: (), 2: ()}


def test_a_client_that_fails_leaves_no_evidence_and_its_failure_is_passed_on(watched, share_request):
    grid, _, _ = watched()
    (reply,) = ask(grid, ABSORB, Request(1), nodes=[1])
    assert reply.content.config_records["failure"]["code"] == "no-state"
    (reply,) = ask(grid, SHARE, share_request(sends=("soft_labels", "nonsense")), nodes=[1])
    assert "failure" in reply.content
    (error,) = ask(grid, SHARE, share_request(), nodes=[99])
    assert isinstance(error.error, Error)
    assert grid.shared[0] == ()


def test_states_are_the_newest_and_initial_for_who_was_never_asked(watched, share_request, fused_soft_labels):
    grid, clients, settings = watched()
    ask(grid, SHARE, share_request(), nodes=[1, 2])
    ask(grid, ABSORB, Request(1, fused={"soft_labels": fused_soft_labels()}, fused_round=1), nodes=[2])
    states = grid.states
    assert [states[client].absorbed_round for client in (0, 1, 2)] == [-1, 1, -1]
    initial = [first_state(client, settings).parameters for client in clients]
    same = [all(torch.equal(states[n].parameters[name], own[name]) for name in own) for n, own in enumerate(initial)]
    assert same == [False, False, True]


def test_it_stands_for_the_grid_that_it_is_beside(watched, share_request):
    grid, _, _ = watched()
    assert grid.get_node_ids() == [1, 2, 3]
    assert grid.run.run_id == 1
    grid.set_run("another")
    assert grid.run == "another"
    message = grid.create_message(share_request().to_record(), DESCRIBE, 2, "1")
    assert (message.metadata.dst_node_id, message.metadata.message_type) == (2, DESCRIBE)
    (number,) = grid.push_messages([message])
    (reply,) = grid.pull_messages([number])
    assert Description.from_record(reply.content).client_id == 1
