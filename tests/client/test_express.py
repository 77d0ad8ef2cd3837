import pytest
import torch

from fedfuse.carriers.carrier import CARRIERS, ONLY_RETURNED
from fedfuse.client.client import first_state
from fedfuse.client.express import express


@pytest.fixture
def cohort(make_clients, make_settings):
    clients, settings = make_clients(("small",)), make_settings(share_facts=frozenset({"private_labels"}))
    return clients, [first_state(client, settings) for client in clients], settings


EVERYTHING = tuple(carrier for carrier in CARRIERS if carrier not in ONLY_RETURNED)


@pytest.mark.parametrize(
    "sends", [(), ("weights",), ("soft_labels", "prototypes"), ("weights", "prototypes", "soft_labels"), EVERYTHING]
)
def test_clients_express_what_was_asked_for_and_nothing_else(cohort, share_request, sends):
    clients, states, settings = cohort
    requests = [share_request(sends=sends, facts=("private_labels",))] * len(clients)
    expressed = express(clients, states, requests, settings)
    assert len(expressed) == len(clients)
    assert all(set(own) == set(sends) for own in expressed)
    for carrier in sends:
        expected = CARRIERS[carrier].express(clients, states, requests, settings)
        for own, tensors in zip(expressed, expected, strict=True):
            assert set(own[carrier]) == set(tensors)
            assert all(torch.equal(own[carrier][name], tensor) for name, tensor in tensors.items())


def test_knowledge_is_that_of_the_state_not_of_the_first_weights(cohort, share_request):
    clients, states, settings = cohort
    swapped = [states[1], states[0], *states[2:]]
    requests = [share_request()] * len(clients)
    straight = express(clients, states, requests, settings)
    crossed = express(clients, swapped, requests, settings)
    assert torch.equal(straight[0]["soft_labels"]["soft_labels"], crossed[1]["soft_labels"]["soft_labels"])
    assert not torch.equal(straight[0]["soft_labels"]["soft_labels"], crossed[0]["soft_labels"]["soft_labels"])
