import pytest
import torch

from fedfuse.carriers import private_soft_labels
from fedfuse.client.client import first_state
from fedfuse.knowledge import InvalidKnowledgeError
from fedfuse.messages import Request


def uniform(number, classes=3):
    return {"soft_labels": torch.full((number, classes), 1 / classes)}


def absorb(clients, settings, tensors):
    states = [first_state(client, settings) for client in clients]
    requests = [Request(1, fused={"private_soft_labels": own}, fused_round=1) for own in tensors]
    return private_soft_labels.absorb(clients, states, requests, settings, None)


def test_clients_send_none():
    with pytest.raises(InvalidKnowledgeError, match="cannot send"):
        private_soft_labels.express([], [], [], None)
    with pytest.raises(InvalidKnowledgeError, match="cannot send"):
        private_soft_labels.stack([], [])


@pytest.mark.parametrize("number", [0, 1, 7])
def test_probabilities_of_any_number_of_samples_are_accepted(make_clients, make_expectation, number):
    private_soft_labels.check(uniform(number), make_expectation(make_clients(("small",))[0]))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, r"came as \[\]"),
        (uniform(2) | {"rows": torch.arange(2)}, "came as"),
        (uniform(2, 4), r"\[2, 4\], expected"),
        ({"soft_labels": torch.ones(3)}, "expected numbers"),
        ({"soft_labels": torch.tensor([[1, 0, 0]])}, "expected numbers"),
        ({"soft_labels": torch.tensor([[0.5, 0.2, 0.2]])}, "off the simplex"),
        ({"soft_labels": torch.tensor([[1.2, -0.1, -0.1]])}, "off the simplex"),
    ],
)
def test_others_are_refused(make_clients, make_expectation, tensors, message):
    with pytest.raises(InvalidKnowledgeError, match=message):
        private_soft_labels.check(tensors, make_expectation(make_clients(("small",))[0]))


def test_each_client_keeps_a_row_for_each_of_its_training_samples(make_clients, make_settings):
    clients, settings = make_clients(("small",), sizes=(2, 5)), make_settings()
    kept = absorb(clients, settings, [uniform(2), uniform(5)])
    assert [state.received["private_soft_labels"]["soft_labels"].shape for state in kept] == [(2, 3), (5, 3)]
    assert kept[0].received["private_soft_labels"]["soft_labels"].dtype == torch.float64


def test_soft_labels_of_another_number_of_samples_are_refused(make_clients, make_settings):
    clients, settings = make_clients(("small",), sizes=(2, 5)), make_settings()
    with pytest.raises(InvalidKnowledgeError, match="do not fit"):
        absorb(clients, settings, [uniform(5), uniform(2)])
