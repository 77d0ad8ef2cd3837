from dataclasses import replace

import pytest
import torch
from protection import EXPOSURE

from fedfuse.client.absorb import absorb
from fedfuse.client.client import first_state
from fedfuse.client.evaluate import evaluate
from fedfuse.client.express import express
from fedfuse.client.learn import learn
from fedfuse.client.phases import (
    MissingStateError,
    RepeatedRequestError,
    absorb_and_evaluate,
    describe,
    share,
    start_state,
)
from fedfuse.client.protect import UnprotectedError, protect
from fedfuse.client.state import ABSORBED, SHARED, DirectoryStore, Generation, MemoryStore
from fedfuse.engine import sequential, stacked
from fedfuse.messages import Reply, Request
from fedfuse.privacy.noise import Noise
from fedfuse.privacy.swing import Swing
from fedfuse.stopwatch import Stopwatch

PHASES = {SHARED: share, ABSORBED: absorb_and_evaluate}


@pytest.fixture(params=["memory", "directory"])
def store(request, tmp_path):
    return MemoryStore() if request.param == "memory" else DirectoryStore(tmp_path)


@pytest.fixture
def cohort(make_clients):
    return make_clients(("small",))


def ask(phase, store, clients, requests, settings, fit=sequential.fit):
    """Run a phase from the stored states, store what the clients became, and return their answers."""
    generation = Generation(requests[0].round, phase)
    states = [
        start_state(store, client, generation, request, settings)
        for client, request in zip(clients, requests, strict=True)
    ]
    answers = PHASES[phase](clients, states, requests, settings, fit, Stopwatch())
    for client, answer in zip(clients, answers, strict=True):
        store.save(client.client_id, generation, answer.state)
    return answers


def same_tensors(own, other):
    return set(own) == set(other) and all(torch.equal(tensor, other[name]) for name, tensor in own.items())


def same_replies(own, other):
    carriers = own.reply.knowledge.carriers
    return all(same_tensors(carriers[name], other.reply.knowledge.carriers[name]) for name in carriers)


def same_states(state, other):
    return (
        same_tensors(state.parameters, other.parameters)
        and state.absorbed_round == other.absorbed_round
        and set(state.received) == set(other.received)
        and all(same_tensors(tensors, other.received[name]) for name, tensors in state.received.items())
    )


def assert_same_answers(answers, others):
    """Compare states and, as they travel, replies: all but the seconds that a verb took."""
    for answer, other in zip(answers, others, strict=True):
        assert same_states(answer.state, other.state)
        reply, other_reply = (Reply.from_record(replace(one.reply, seconds={}).to_record()) for one in (answer, other))
        assert replace(reply, knowledge=None) == replace(other_reply, knowledge=None)
        if reply.knowledge is not None:
            assert reply.knowledge.num_examples == other_reply.knowledge.num_examples
            for carrier, tensors in reply.knowledge.carriers.items():
                assert same_tensors(tensors, other_reply.knowledge.carriers[carrier])


# -- describe ----------------------------------------------------------------------------------------------------------


def test_a_client_says_who_it_is(make_clients, make_settings):
    client, settings = make_clients()[2], make_settings()
    description = describe(client, settings)
    assert description.client_id == 2
    assert description.architecture == client.architecture.signature
    assert description.embedding_size == 5
    assert description.transfer_digest == settings.transfer.digest
    assert description.class_names == ("circle", "square", "star")


# -- where a phase starts ----------------------------------------------------------------------------------------------


def test_share_starts_from_the_newest_state_before_it_and_at_first_from_first_weights(store, cohort, make_settings):
    client, settings = cohort[1], make_settings()
    first = first_state(client, settings)
    assert same_states(start_state(store, client, Generation(4, SHARED), Request(round=1), settings), first)
    for generation, round in ((Generation(4, SHARED), 4), (Generation(4, ABSORBED), 5)):
        store.save(client.client_id, generation, replace(first, absorbed_round=round))
    assert start_state(store, client, Generation(5, SHARED), Request(round=1), settings).absorbed_round == 5
    assert start_state(store, client, Generation(9, SHARED), Request(round=1), settings).absorbed_round == 5


def test_share_does_not_begin_afresh_where_only_later_states_are_kept(store, cohort, make_settings):
    client, settings = cohort[1], make_settings()
    store.save(client.client_id, Generation(4, SHARED), replace(first_state(client, settings), absorbed_round=3))
    # The first message again: the state that it began from was not one of the store.
    assert start_state(store, client, Generation(4, SHARED), Request(round=1), settings).absorbed_round == -1
    store.save(client.client_id, Generation(4, ABSORBED), first_state(client, settings))
    for round in (3, 4):
        with pytest.raises(MissingStateError, match=r"^client 1 is at .*4.*, and what it was before .* is not kept$"):
            start_state(store, client, Generation(round, SHARED), Request(round=1), settings)
    # Another client's states are no reason.
    start_state(store, cohort[2], Generation(3, SHARED), Request(round=1), settings)


class Guaranteed(Noise):
    """Stands for a mechanism that backs a guarantee."""

    role = "mechanism"


def test_where_a_guarantee_is_claimed_another_request_for_an_answered_round_is_refused(
    store, cohort, make_settings, share_request
):
    clients = [cohort[1]]
    settings = make_settings(protectors=(Guaranteed(),), exposure=EXPOSURE)
    (first,) = ask(SHARED, store, clients, [share_request(1)], settings)
    (again,) = ask(SHARED, store, clients, [share_request(1)], settings)
    assert same_replies(first, again)
    for other in (share_request(1, rows=torch.arange(3)), share_request(1, fused_round=0)):
        with pytest.raises(RepeatedRequestError, match="client 1 has answered round 1 already"):
            start_state(store, clients[0], Generation(1, SHARED), other, settings)
    ask(SHARED, store, clients, [share_request(2)], settings)
    with pytest.raises(RepeatedRequestError):
        start_state(store, clients[0], Generation(1, SHARED), share_request(1, fused_round=0), settings)
    # Without a guarantee nothing is spent.
    start_state(store, clients[0], Generation(2, SHARED), share_request(2, rows=torch.arange(3)), make_settings())


def test_where_a_guarantee_is_claimed_nobody_tells_how_long_it_took(store, cohort, make_settings, share_request):
    settings = make_settings(protectors=(Guaranteed(),), exposure=EXPOSURE)
    (answer,) = ask(SHARED, store, [cohort[0]], [share_request()], settings)
    assert answer.reply.seconds == {}
    (answer,) = ask(ABSORBED, store, [cohort[0]], [share_request()], settings)
    assert answer.reply.seconds == {}
    (answer,) = ask(SHARED, MemoryStore(), [cohort[0]], [share_request()], make_settings(protectors=(Noise(),)))
    assert set(answer.reply.seconds) == {"absorb", "learn", "express", "protect"}


def test_a_client_states_what_it_did_to_what_it_sends(store, cohort, make_settings, share_request):
    settings = make_settings(protectors=(Noise(),), protection="noise(scale=0.05); draws: seed")
    (answer,) = ask(SHARED, store, [cohort[0]], [share_request()], settings)
    assert answer.reply.knowledge.protection == "noise(scale=0.05); draws: seed"
    assert Reply.from_record(answer.reply.to_record()).knowledge.protection == "noise(scale=0.05); draws: seed"


def test_who_sends_nothing_has_nothing_to_state(store, cohort, make_settings, share_request):
    settings = make_settings(protectors=(Noise(),), protection="noise(scale=0.05); draws: seed")
    (answer,) = ask(SHARED, store, [cohort[0]], [share_request(sends=())], settings)
    assert answer.reply.knowledge.protection == ""


def test_a_request_for_more_than_the_guarantee_covers_is_refused(store, cohort, make_settings, share_request):
    settings = make_settings(protectors=(Guaranteed(),), exposure=replace(EXPOSURE, num_rows=3))
    with pytest.raises(UnprotectedError):
        ask(SHARED, store, [cohort[0]], [share_request()], settings)


def test_absorb_starts_from_the_share_of_its_own_round_and_from_nothing_else(store, cohort, make_settings):
    client, settings = cohort[1], make_settings()
    absorbing = Generation(4, ABSORBED)
    for generation in (Generation(3, ABSORBED), Generation(4, ABSORBED)):
        store.save(client.client_id, generation, first_state(client, settings))
        with pytest.raises(MissingStateError, match="client 1 did not share in round 4"):
            start_state(store, client, absorbing, Request(round=1), settings)
    store.save(client.client_id, Generation(4, SHARED), replace(first_state(client, settings), absorbed_round=3))
    assert start_state(store, client, absorbing, Request(round=1), settings).absorbed_round == 3
    assert start_state(store, client, absorbing, Request(round=1), settings).absorbed_round == 3
    with pytest.raises(MissingStateError):
        start_state(store, cohort[2], absorbing, Request(round=1), settings)


# -- share -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", [sequential.fit, stacked.fit])
def test_share_absorbs_what_waits_then_learns_expresses_and_protects(
    cohort, make_settings, share_request, fused_soft_labels, fit
):
    settings = make_settings(protectors=(Noise(0.1),))
    request = share_request(3, fused={"soft_labels": fused_soft_labels()}, fused_round=2)
    requests = [request] * len(cohort)
    states = [first_state(client, settings) for client in cohort]
    answers = share(cohort, states, requests, settings, fit, Stopwatch())
    states = absorb(cohort, states, requests, settings, fit)
    states = learn(cohort, states, 3, settings, fit)
    expressed = express(cohort, states, requests, settings)
    for client, state, own, answer in zip(cohort, states, expressed, answers, strict=True):
        assert same_states(answer.state, state)
        assert answer.state.absorbed_round == 2
        protected = protect(client, state, own, request, settings)
        knowledge = answer.reply.knowledge
        assert same_tensors(knowledge.carriers["soft_labels"], protected["soft_labels"])
        assert not same_tensors(knowledge.carriers["soft_labels"], own["soft_labels"])
        assert (knowledge.client_id, knowledge.round) == (client.client_id, 3)
        assert (answer.reply.client_id, answer.reply.round) == (client.client_id, 3)
        assert answer.reply.transfer_digest == settings.transfer.digest
        assert answer.reply.metrics is None


@pytest.mark.parametrize("asked", [(), ("num_examples",)])
@pytest.mark.parametrize("allowed", [frozenset(), frozenset({"test_metrics"}), frozenset({"num_examples"})])
def test_the_number_of_examples_travels_only_if_it_is_asked_for_and_allowed(
    cohort, make_settings, share_request, asked, allowed
):
    settings = make_settings(share_facts=allowed)
    states = [first_state(client, settings) for client in cohort]
    requests = [share_request(facts=asked)] * len(cohort)
    answers = share(cohort, states, requests, settings, stacked.fit, Stopwatch())
    travels = asked == ("num_examples",) and "num_examples" in allowed
    told = [answer.reply.knowledge.num_examples for answer in answers]
    assert told == ([1, 5, 16, 17, 40] if travels else [None] * 5)
    written = [answer.reply.to_record().config_records["reply"] for answer in answers]
    assert all(("num-examples" in header) == travels for header in written)


@pytest.mark.parametrize("asked", [(), ("num_examples",), ("label_counts",)])
@pytest.mark.parametrize("allowed", [frozenset(), frozenset({"num_examples"}), frozenset({"label_counts"})])
def test_label_counts_travel_only_if_they_are_asked_for_and_allowed(
    cohort, make_settings, share_request, asked, allowed
):
    settings = make_settings(share_facts=allowed)
    states = [first_state(client, settings) for client in cohort]
    requests = [share_request(facts=asked)] * len(cohort)
    answers = share(cohort, states, requests, settings, stacked.fit, Stopwatch())
    travels = asked == ("label_counts",) and "label_counts" in allowed
    for client, answer in zip(cohort, answers, strict=True):
        labels = client.data.train.labels.tolist()
        counts = tuple(labels.count(label) for label in range(3))
        assert answer.reply.knowledge.label_counts == (counts if travels else None)
        assert ("label-counts" in answer.reply.to_record().config_records["reply"]) == travels


# -- absorb ------------------------------------------------------------------------------------------------------------


def test_absorb_changes_the_state_and_then_measures_it(cohort, make_settings, fused_soft_labels):
    settings = make_settings()
    request = Request(round=4, fused={"soft_labels": fused_soft_labels()}, fused_round=4)
    requests = [request] * len(cohort)
    states = [first_state(client, settings) for client in cohort]
    answers = absorb_and_evaluate(cohort, states, requests, settings, stacked.fit, Stopwatch())
    absorbed = absorb(cohort, states, requests, settings, stacked.fit)
    metrics = evaluate(cohort, absorbed, settings)
    for client, state, own, answer in zip(cohort, absorbed, metrics, answers, strict=True):
        assert same_states(answer.state, state)
        assert answer.reply.metrics == own
        assert (answer.reply.client_id, answer.reply.round) == (client.client_id, 4)
        assert answer.reply.transfer_digest == settings.transfer.digest
        assert answer.reply.knowledge is None


@pytest.mark.parametrize("allowed", [True, False])
def test_metrics_travel_only_if_they_are_allowed(cohort, make_settings, allowed):
    settings = make_settings(share_facts=frozenset({"test_metrics"} if allowed else {"num_examples"}))
    states = [first_state(client, settings) for client in cohort]
    requests = [Request(round=1)] * len(cohort)
    answers = absorb_and_evaluate(cohort, states, requests, settings, stacked.fit, Stopwatch())
    names = {"personal_accuracy", "personal_loss", "validation_accuracy", "general_accuracy"}
    for answer in answers:
        assert set(answer.reply.metrics) == (names if allowed else set())
        assert set(answer.reply.to_record().metric_records["metrics"]) == (names if allowed else set())


def test_absorbing_the_same_fused_round_twice_changes_nothing(store, cohort, make_settings, fused_soft_labels):
    settings = make_settings()
    fused = {"fused": {"soft_labels": fused_soft_labels()}, "fused_round": 1}
    rows = torch.arange(10)
    ask(SHARED, store, cohort, [Request(round=1, sends=("soft_labels",), rows=rows)] * 5, settings)
    absorbed = ask(ABSORBED, store, cohort, [Request(round=1, **fused)] * 5, settings)
    states = [answer.state for answer in absorbed]
    again = absorb_and_evaluate(cohort, states, [Request(round=1, **fused)] * 5, settings, stacked.fit, Stopwatch())
    assert_same_answers(again, absorbed)
    plain, carrying = (
        share(
            cohort,
            states,
            [Request(round=2, sends=("soft_labels",), rows=rows, **others)] * 5,
            settings,
            sequential.fit,
            Stopwatch(),
        )
        for others in ({}, fused)
    )
    assert_same_answers(plain, carrying)


# -- repeating ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", [sequential.fit, stacked.fit])
def test_repeating_the_last_message_gives_bitwise_the_same_reply(
    store, cohort, make_settings, share_request, fused_soft_labels, fit
):
    settings = make_settings(protectors=(Swing(),))
    for round in (1, 2, 3):
        asked = [share_request(round, facts=("num_examples",))] * len(cohort)
        shared = ask(SHARED, store, cohort, asked, settings, fit)
        for _ in range(2):
            assert_same_answers(ask(SHARED, store, cohort, asked, settings, fit), shared)
        fused = {"soft_labels": fused_soft_labels(seed=round)}
        asked = [Request(round=round, fused=fused, fused_round=round)] * len(cohort)
        absorbed = ask(ABSORBED, store, cohort, asked, settings, fit)
        for _ in range(2):
            assert_same_answers(ask(ABSORBED, store, cohort, asked, settings, fit), absorbed)
        for client, answer in zip(cohort, absorbed, strict=True):
            assert same_states(store.load(client.client_id, Generation(round, ABSORBED)), answer.state)


def test_what_another_client_is_asked_does_not_change_an_answer(cohort, make_settings, share_request):
    settings = make_settings()
    everybody = ask(SHARED, MemoryStore(), cohort, [share_request()] * 5, settings)
    some = ask(SHARED, MemoryStore(), cohort[3:], [share_request()] * 2, settings)
    assert_same_answers(some, everybody[3:])


# -- times -------------------------------------------------------------------------------------------------------------


def test_each_verb_is_announced_and_each_client_reports_an_equal_part_of_its_time(cohort, make_settings, share_request):
    settings, announced = make_settings(), []
    states = [first_state(client, settings) for client in cohort]
    for phase, request, verbs in (
        (share, share_request(), ["absorb", "learn", "express", "protect"]),
        (absorb_and_evaluate, Request(round=1), ["absorb", "evaluate"]),
    ):
        announced.clear()
        stopwatch = Stopwatch(announced.append)
        answers = phase(cohort, states, [request] * 5, settings, stacked.fit, stopwatch)
        assert announced == verbs
        for answer in answers:
            assert answer.reply.seconds == {verb: pytest.approx(stopwatch.seconds[verb] / 5) for verb in verbs}
