import logging
import math
import shutil
from dataclasses import replace

import pytest
import torch
from flwr.app import Message, RecordDict
from states import states_of

from fedfuse.client import phases
from fedfuse.client.state import ABSORBED, SHARED, Generation, MemoryStore
from fedfuse.client.state_file import StateFile
from fedfuse.engine import local_grid
from fedfuse.engine.local_grid import LocalGrid
from fedfuse.engine.runner import choose_runner
from fedfuse.knowledge import InvalidKnowledgeError
from fedfuse.messages import ABSORB, DESCRIBE, SHARE, Description, Reply, Request
from fedfuse.privacy.noise import Noise
from fedfuse.privacy.swing import Swing
from fedfuse.stopwatch import Stopwatch


@pytest.fixture
def run_of(make_clients, make_settings):
    """Return a function that makes a grid with its clients and settings."""

    def make(
        names=("small", "wide", "cnn"),
        sizes=(1, 5, 16, 17, 40),
        runner="auto",
        verb=None,
        dtype=torch.float64,
        store=None,
        **changes,
    ):
        clients, settings = make_clients(names, sizes, dtype), make_settings(dtype, **changes)
        return LocalGrid(clients, settings, runner, verb, store=store), clients, settings

    return make


def messages_to(nodes, message_type, request):
    """Make messages; the request is one for all or a mapping by node."""
    requests = request if isinstance(request, dict) else dict.fromkeys(nodes, request)
    return [Message(requests[node].to_record(), dst_node_id=node, message_type=message_type) for node in nodes]


def ask(grid, message_type, request, nodes=None):
    return grid.send_and_receive(messages_to(nodes or grid.get_node_ids(), message_type, request))


def nodes_of(replies):
    return [reply.metadata.src_node_id for reply in replies]


def answers_of(replies):
    return [replace(Reply.from_record(reply.content), seconds=None) for reply in replies]


def code_of(reply):
    """Return the failure that a reply holds, or nothing."""
    return reply.content.config_records["failure"]["code"] if "failure" in reply.content else None


def soft_labels_of(answer):
    return answer.knowledge.carriers["soft_labels"]["soft_labels"]


def assert_bitwise(answers, others):
    assert len(answers) == len(others)
    for answer, other in zip(answers, others, strict=True):
        assert replace(answer, knowledge=None) == replace(other, knowledge=None)
        assert (answer.knowledge is None) == (other.knowledge is None)
        if answer.knowledge is not None:
            assert answer.knowledge.num_examples == other.knowledge.num_examples
            assert set(answer.knowledge.carriers) == set(other.knowledge.carriers)
            for carrier, tensors in answer.knowledge.carriers.items():
                assert all(torch.equal(tensor, other.knowledge.carriers[carrier][n]) for n, tensor in tensors.items())


def stored_in(grid):
    return states_of(grid.store, range(5))


def assert_same_states(grid, other):
    """Compare the stored states of two grids, or of a grid with what it stored before."""
    states = [stored_in(one) if isinstance(one, LocalGrid) else one for one in (grid, other)]
    files = []
    for state in states:
        flat = {
            (client, round, phase, name): tensor
            for client, generations in state.items()
            for round, phase, plain in generations
            for name, tensor in plain["parameters"].items()
        }
        files.append(flat)
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(tensor, files[1][key]) for key, tensor in files[0].items())


def fused_request(round, tensors):
    return Request(round=round, fused={"soft_labels": tensors}, fused_round=round)


# -- who is there ------------------------------------------------------------------------------------------------------


def test_node_ids_are_client_ids_plus_one(run_of):
    grid, clients, settings = run_of()
    assert grid.get_node_ids() == [1, 2, 3, 4, 5]
    assert LocalGrid(clients[::-2], settings).get_node_ids() == [1, 3, 5]
    assert [node.node_id for node in grid.get_nodes()] == [1, 2, 3, 4, 5]


def test_every_client_describes_itself(run_of):
    grid, clients, settings = run_of()
    replies = grid.send_and_receive([Message(RecordDict(), node, DESCRIBE) for node in (5, 1, 3, 2, 4)])
    assert nodes_of(replies) == [1, 2, 3, 4, 5]
    for client, reply in zip(clients, replies, strict=True):
        assert Description.from_record(reply.content) == phases.describe(client, settings)


def test_a_message_belongs_to_the_run_of_the_grid(run_of):
    grid, _, _ = run_of()
    message = grid.create_message(RecordDict(), SHARE, 3, "7", ttl=60.0)
    assert message.metadata.dst_node_id == 3
    assert message.metadata.message_type == SHARE
    assert message.metadata.group_id == "7"
    assert message.metadata.ttl == 60
    assert message.metadata.run_id == grid.run.run_id == local_grid.RUN_ID
    other = type(grid.run).create_empty(5)
    grid.set_run(other)
    assert grid.run is other


# -- the computation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runner", ["auto", "sequential", "stacked"])
def test_clients_alone_in_their_cohort_answer_bitwise_what_the_phases_answer(
    run_of, share_request, fused_soft_labels, runner
):
    grid, clients, settings = run_of(sizes=(17, 5, 16), runner=runner, protectors=(Noise(), Swing()))
    store = MemoryStore()
    for round in (1, 2):
        shares = share_request(round, sends=("soft_labels", "prototypes"), facts=("num_examples",))
        absorbs = fused_request(round, fused_soft_labels(seed=round))
        for message_type, request, phase, finished in (
            (SHARE, shares, phases.share, SHARED),
            (ABSORB, absorbs, phases.absorb_and_evaluate, ABSORBED),
        ):
            replies = ask(grid, message_type, request)
            for client, answer in zip(clients, answers_of(replies), strict=True):
                generation = Generation(round, finished)
                state = phases.start_state(store, client, generation, request, settings)
                fit = choose_runner(runner, client.architecture)
                (direct,) = phase([client], [state], [request], settings, fit, Stopwatch())
                store.save(client.client_id, generation, direct.state)
                assert_bitwise([answer], [replace(Reply.from_record(direct.reply.to_record()), seconds=None)])
        assert_same_states(grid, states_of(store, range(3)))


def test_clients_of_one_architecture_work_as_a_cohort_in_order_of_their_ids(run_of, share_request, monkeypatch):
    grid, _, _ = run_of(("small", "cnn"))
    cohorts, share = [], phases.share

    def spy(cohort, *others):
        cohorts.append([client.client_id for client in cohort])
        return share(cohort, *others)

    monkeypatch.setattr(phases, "share", spy)
    replies = ask(grid, SHARE, share_request(), nodes=[5, 2, 3, 4, 1])
    assert cohorts == [[0, 2, 4], [1, 3]]
    assert nodes_of(replies) == [1, 2, 3, 4, 5]
    assert [answer.client_id for answer in answers_of(replies)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("runner", ["sequential", "stacked"])
def test_a_cohort_answers_what_its_clients_would_answer_alone(run_of, share_request, fused_soft_labels, runner):
    def knowledge(groups):
        grid, _, _ = run_of(("small", "cnn"), runner=runner)
        answers = {}
        for nodes in groups:
            ask(grid, SHARE, share_request(1), nodes)
            ask(grid, ABSORB, fused_request(1, fused_soft_labels()), nodes)
            for node, answer in zip(nodes, answers_of(ask(grid, SHARE, share_request(2), nodes)), strict=True):
                answers[node] = soft_labels_of(answer)
        return torch.stack([answers[node] for node in range(1, 6)])

    together, alone = knowledge([[1, 2, 3, 4, 5]]), knowledge([[node] for node in range(1, 6)])
    torch.testing.assert_close(together, alone, rtol=0, atol=0 if runner == "sequential" else 1e-10)


def test_the_runner_is_the_one_that_was_asked_for(run_of, share_request):
    knowledge = {
        runner: torch.stack(
            [soft_labels_of(answer) for answer in answers_of(ask(run_of(runner=runner)[0], SHARE, share_request()))]
        )
        for runner in ("sequential", "stacked")
    }
    difference = (knowledge["sequential"] - knowledge["stacked"]).abs().max()
    assert 0 < difference < 1e-10


def test_share_and_absorb_messages_may_come_together(run_of, share_request, fused_soft_labels):
    grid, _, _ = run_of(("small",))
    ask(grid, SHARE, share_request(1), [1, 2])
    messages = messages_to([1], ABSORB, fused_request(1, fused_soft_labels()))
    messages += [*messages_to([4], SHARE, share_request(1)), Message(RecordDict(), 3, DESCRIBE)]
    replies = grid.send_and_receive(iter(messages))
    assert nodes_of(replies) == [1, 3, 4]
    assert Reply.from_record(replies[0].content).metrics
    assert Description.from_record(replies[1].content).client_id == 2
    assert Reply.from_record(replies[2].content).knowledge is not None


def test_repeating_a_message_repeats_its_reply(run_of, share_request, fused_soft_labels):
    grid, _, _ = run_of()
    for round in (1, 2):
        for message_type, request in (
            (SHARE, share_request(round)),
            (ABSORB, fused_request(round, fused_soft_labels(seed=round))),
        ):
            first = answers_of(ask(grid, message_type, request))
            stored = stored_in(grid)
            assert_bitwise(answers_of(ask(grid, message_type, request)), first)
            assert_same_states(grid, stored)


def test_the_generator_of_torch_is_left_as_it_was(run_of, share_request):
    grid, _, _ = run_of(protectors=(Noise(),))
    before = torch.get_rng_state()
    ask(grid, SHARE, share_request())
    assert torch.equal(torch.get_rng_state(), before)


# -- verbs -------------------------------------------------------------------------------------------------------------


def test_every_verb_is_told_with_the_clients_done_and_in_all(run_of, share_request):
    told = []
    grid, _, _ = run_of(("small", "cnn"), verb=lambda *news: told.append(news))
    ask(grid, SHARE, share_request())
    verbs = ["absorb", "learn", "express", "protect"]
    assert told == [(verb, 0, 5) for verb in verbs] + [(verb, 3, 5) for verb in verbs]
    told.clear()
    ask(grid, ABSORB, Request(round=1), nodes=[2, 3])
    assert told == [("absorb", 0, 2), ("evaluate", 0, 2), ("absorb", 1, 2), ("evaluate", 1, 2)]


# -- faults ------------------------------------------------------------------------------------------------------------


def test_one_clients_fault_stays_its_own(run_of, share_request, fused_soft_labels, caplog):
    healthy, _, _ = run_of(("small",))
    expected = answers_of(ask(healthy, SHARE, share_request()))
    grid, _, _ = run_of(("small",))
    requests = dict.fromkeys(grid.get_node_ids(), share_request())
    misfit = {"soft_labels": fused_soft_labels()["soft_labels"][:4]}
    requests[3] = share_request(fused={"soft_labels": misfit}, fused_round=0)
    replies = ask(grid, SHARE, requests)
    assert nodes_of(replies) == [1, 2, 3, 4, 5]
    assert [code_of(reply) for reply in replies] == [None, None, "refused", None, None]
    with pytest.raises(InvalidKnowledgeError, match=r"^refused: what was received or would be sent"):
        Reply.from_record(replies[2].content)
    others = [reply for reply in replies if code_of(reply) is None]
    for answer, usual in zip(answers_of(others), expected[:2] + expected[3:], strict=True):
        assert answer.client_id == usual.client_id
        torch.testing.assert_close(soft_labels_of(answer), soft_labels_of(usual), rtol=0, atol=1e-10)
    assert [record.getMessage() for record in caplog.records] == ["client 2 failed in round 1"]


@pytest.mark.parametrize("runner", ["sequential", "stacked"])
def test_a_client_that_diverges_is_reported_and_keeps_its_stored_state(
    run_of, share_request, fused_soft_labels, caplog, runner
):
    grid, clients, _ = run_of(("small", "wide"), runner=runner)
    ask(grid, SHARE, share_request(1))
    ask(grid, ABSORB, fused_request(1, fused_soft_labels()))
    before = stored_in(grid)
    clients[2].data.train.inputs[3] = math.nan
    replies = ask(grid, SHARE, share_request(2))
    assert [code_of(reply) for reply in replies] == [None, None, "diverged", None, None]
    assert replies[2].metadata.src_node_id == 3
    assert "nan" not in replies[2].content.config_records["failure"]["text"].lower()
    assert all(torch.isfinite(soft_labels_of(answer)).all() for answer in answers_of(replies[:2] + replies[3:]))
    after = stored_in(grid)
    assert_same_states({2: after[2]}, {2: before[2]})
    newest = {client: generations[-1][:2] for client, generations in after.items()}
    assert newest == {0: (2, SHARED), 1: (2, SHARED), 2: (1, ABSORBED), 3: (2, SHARED), 4: (2, SHARED)}
    assert [record.getMessage() for record in caplog.records] == ["client 2 failed in round 2"]


def test_a_learning_rate_that_is_far_too_high_is_reported_by_every_client(run_of, share_request, make_settings, caplog):
    learn = make_settings().learn
    learn = replace(learn, optimizer=replace(learn.optimizer, lr=1e20))
    grid, _, _ = run_of(sizes=(40,) * 5, dtype=torch.float32, learn=learn)
    replies = ask(grid, SHARE, share_request())
    assert [code_of(reply) for reply in replies] == ["diverged"] * 5
    assert nodes_of(replies) == [1, 2, 3, 4, 5]
    assert sorted(record.getMessage() for record in caplog.records) == [
        f"client {client} failed in round 1" for client in range(5)
    ]
    assert stored_in(grid) == {}


def test_absorbing_without_having_shared_is_a_failure_of_that_client_alone(run_of, share_request, fused_soft_labels):
    grid, _, _ = run_of(("small",))
    ask(grid, SHARE, share_request(1), nodes=[1, 3, 4])
    replies = ask(grid, ABSORB, fused_request(1, fused_soft_labels()))
    assert [code_of(reply) for reply in replies] == [None, "no-state", None, None, "no-state"]
    assert sorted(stored_in(grid)) == [0, 2, 3]


def test_a_failure_tells_nothing_of_what_went_wrong_and_the_log_tells_all(run_of, share_request, monkeypatch, caplog):
    def fail(*others):
        raise OSError("/home/ada/secret.csv is broken")

    monkeypatch.setattr(phases, "share", fail)
    grid, _, _ = run_of(sizes=(5, 5))
    replies = ask(grid, SHARE, share_request())
    for reply in replies:
        failure = dict(reply.content.config_records["failure"])
        assert failure == {"code": "failed", "text": "OSError; the client's own log has the details"}
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "secret.csv is broken" in caplog.text
    assert stored_in(grid) == {}


@pytest.mark.parametrize(
    ("node", "message_type"),
    [(99, SHARE), (99, DESCRIBE), (2, "train.gossip"), (2, "query"), (2, "evaluate.absorb")],
)
def test_unknown_nodes_and_unknown_message_types_get_an_error_and_the_others_their_reply(
    run_of, share_request, node, message_type
):
    grid, _, _ = run_of()
    messages = messages_to([1, 4], SHARE, share_request())
    messages.insert(1, Message(share_request().to_record(), node, message_type))
    replies = grid.send_and_receive(messages)
    assert nodes_of(replies) == sorted([1, node, 4])
    errors = [reply for reply in replies if reply.has_error()]
    assert [reply.metadata.src_node_id for reply in errors] == [node]
    assert errors[0].error.code == local_grid.UNKNOWN_MESSAGE
    assert errors[0].metadata.reply_to_message_id == messages[1].metadata.message_id


def test_no_message_has_no_reply(run_of):
    assert run_of()[0].send_and_receive([]) == []


# -- push and pull -----------------------------------------------------------------------------------------------------


def test_replies_are_pulled_by_the_ids_of_their_messages_once(run_of, share_request):
    grid, _, _ = run_of()
    pushed = grid.push_messages(messages_to([4, 1, 3], SHARE, share_request()))
    assert len(set(pushed)) == 3
    assert nodes_of(grid.pull_messages(pushed[:1])) == [4]
    assert nodes_of(grid.pull_messages(pushed)) == [1, 3]
    assert grid.pull_messages([*pushed, "unknown"]) == []


def test_pushing_again_before_all_is_pulled_loses_no_reply(run_of, share_request):
    grid, _, _ = run_of()
    first = grid.push_messages(messages_to([1, 2], SHARE, share_request()))
    second = grid.push_messages(messages_to([3, 4], SHARE, share_request()))
    assert nodes_of(grid.pull_messages(first)) == [1, 2]
    third = grid.push_messages(messages_to([5, 1], SHARE, share_request()))
    assert len({*first, *second, *third}) == 6
    assert nodes_of(grid.pull_messages(second)) == [3, 4]
    assert nodes_of(grid.pull_messages(third)) == [5, 1]


def test_pulled_replies_are_those_of_send_and_receive(run_of, share_request):
    grid, other = run_of()[0], run_of()[0]
    pulled = grid.pull_messages(grid.push_messages(messages_to([1, 2, 3, 4, 5], SHARE, share_request())))
    assert_bitwise(answers_of(pulled), answers_of(ask(other, SHARE, share_request())))


# -- resume ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after_share", [False, True])
def test_a_grid_with_the_states_of_another_goes_on_bitwise_the_same(
    run_of, share_request, fused_soft_labels, after_share, tmp_path
):
    protectors = (Swing(),)
    file = StateFile(tmp_path / "states.sqlite")
    grid, _, _ = run_of(protectors=protectors, store=file)
    ask(grid, SHARE, share_request(1))
    ask(grid, ABSORB, fused_request(1, fused_soft_labels(seed=1)))
    if after_share:
        ask(grid, SHARE, share_request(2))
    file.commit()
    shutil.copy(tmp_path / "states.sqlite", tmp_path / "copy.sqlite")
    resumed, _, _ = run_of(protectors=protectors, store=StateFile(tmp_path / "copy.sqlite"))
    assert_same_states(resumed, grid)
    rest = [(ABSORB, fused_request(2, fused_soft_labels(seed=2))), (SHARE, share_request(3))]
    for message_type, request in rest if after_share else [(SHARE, share_request(2)), *rest]:
        assert_bitwise(answers_of(ask(resumed, message_type, request)), answers_of(ask(grid, message_type, request)))
    assert_same_states(resumed, grid)
    fresh, _, _ = run_of(protectors=protectors)
    answers = answers_of(ask(fresh, SHARE, share_request(3)))
    last = answers_of(ask(grid, SHARE, share_request(3)))
    assert not torch.equal(soft_labels_of(answers[0]), soft_labels_of(last[0]))
