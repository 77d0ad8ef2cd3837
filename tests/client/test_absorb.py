from dataclasses import replace

import pytest
import torch

from fedfuse.client.absorb import absorb
from fedfuse.client.client import first_state
from fedfuse.engine import sequential, stacked
from fedfuse.knowledge import InvalidKnowledgeError
from fedfuse.messages import Request
from fedfuse.objectives.prototype import Prototype


@pytest.fixture
def cohort(make_clients, make_settings):
    clients, settings = make_clients(("small",)), make_settings()
    return clients, [first_state(client, settings) for client in clients], settings


def no_fit(jobs):
    raise AssertionError("nothing is to be trained here")


def same(state, other):
    return all(torch.equal(tensor, other.parameters[name]) for name, tensor in state.parameters.items())


def test_who_received_nothing_stays_the_same_object(cohort):
    clients, states, settings = cohort
    absorbed = absorb(clients, states, [Request(round=1)] * len(clients), settings, no_fit)
    assert all(state is before for state, before in zip(absorbed, states, strict=True))


@pytest.mark.parametrize("fused_round", [0, 2, 3])
def test_what_was_absorbed_before_or_is_older_is_not_absorbed_again(cohort, fused_soft_labels, fused_round):
    clients, states, settings = cohort
    states = [replace(state, absorbed_round=3) for state in states]
    request = Request(round=4, fused={"soft_labels": fused_soft_labels()}, fused_round=fused_round)
    absorbed = absorb(clients, states, [request] * len(clients), settings, no_fit)
    assert all(state is before for state, before in zip(absorbed, states, strict=True))


@pytest.mark.parametrize("fused_round", [0, 5])
def test_new_knowledge_is_absorbed_and_its_round_remembered(cohort, fused_soft_labels, fused_round):
    clients, states, settings = cohort
    request = Request(round=5, fused={"soft_labels": fused_soft_labels()}, fused_round=fused_round)
    absorbed = absorb(clients, states, [request] * len(clients), settings, sequential.fit)
    assert [state.absorbed_round for state in absorbed] == [fused_round] * len(clients)
    assert not any(same(state, before) for state, before in zip(absorbed, states, strict=True))


def test_a_cohort_absorbs_what_each_of_its_clients_received(cohort, fused_soft_labels):
    clients, states, settings = cohort
    weights = {name: torch.full_like(tensor, 0.5) for name, tensor in states[0].parameters.items()}
    soft_labels = {"soft_labels": fused_soft_labels()}
    requests = [
        Request(round=1),
        Request(round=1, fused={"weights": weights}, fused_round=0),
        Request(round=1, fused=soft_labels, fused_round=1),
        Request(round=1, fused={}, fused_round=1),
        Request(round=1, fused=soft_labels, fused_round=1),
    ]
    absorbed = absorb(clients, states, requests, settings, stacked.fit)
    assert [state.absorbed_round for state in absorbed] == [-1, 0, 1, 1, 1]
    assert same(absorbed[0], states[0])
    assert same(absorbed[3], states[3])
    assert all((tensor == 0.5).all() for tensor in absorbed[1].parameters.values())
    for row in (2, 4):
        (alone,) = absorb([clients[row]], [states[row]], [requests[row]], settings, stacked.fit)
        for name, tensor in alone.parameters.items():
            torch.testing.assert_close(absorbed[row].parameters[name], tensor, rtol=0, atol=1e-12)
            assert not torch.equal(tensor, states[row].parameters[name])


def test_weights_are_loaded_before_soft_labels_are_distilled_into_them(cohort, fused_soft_labels):
    (client, *_), (state, *_), settings = cohort
    other = client.architecture.initial_parameters(99, torch.float64)
    fused = {"soft_labels": fused_soft_labels(), "weights": other}
    (both,) = absorb([client], [state], [Request(round=1, fused=fused, fused_round=1)], settings, sequential.fit)
    loaded = replace(state, parameters=other)
    alone = Request(round=1, fused={"soft_labels": fused["soft_labels"]}, fused_round=1)
    (distilled,) = absorb([client], [loaded], [alone], settings, sequential.fit)
    assert same(both, distilled)
    assert not same(both, loaded)


def test_the_states_that_were_given_are_not_changed(cohort, fused_soft_labels):
    clients, states, settings = cohort
    before = [{name: tensor.clone() for name, tensor in state.parameters.items()} for state in states]
    request = Request(round=1, fused={"soft_labels": fused_soft_labels()}, fused_round=1)
    absorb(clients, states, [request] * len(clients), settings, stacked.fit)
    for state, parameters in zip(states, before, strict=True):
        assert all(torch.equal(state.parameters[name], tensor) for name, tensor in parameters.items())


@pytest.mark.parametrize(
    "fused",
    [
        {"soft_labels": {"soft_labels": torch.full((9, 3), 1 / 3)}},
        {"weights": {"head.bias": torch.zeros(3)}},
        {"prototypes": {"prototypes": torch.zeros(3, 6), "mask": torch.ones(3, dtype=torch.bool)}},
    ],
)
def test_what_does_not_fit_is_refused(cohort, make_settings, fused):
    clients, states, _ = cohort
    settings = make_settings(objective=Prototype())
    requests = [Request(round=1, fused=fused, fused_round=1)] * len(clients)
    with pytest.raises(InvalidKnowledgeError, match=r"fused .* do not fit"):
        absorb(clients, states, requests, settings, sequential.fit)
