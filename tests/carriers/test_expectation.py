from dataclasses import FrozenInstanceError

import pytest
import torch

from fedfuse.carriers.carrier import CARRIERS, ONLY_RETURNED
from fedfuse.client.client import first_state
from fedfuse.client.express import express
from fedfuse.knowledge import InvalidKnowledgeError


@pytest.mark.parametrize("rows", [None, torch.tensor([0, 3, 9])])
def test_what_a_client_expresses_is_what_is_expected_of_it(
    make_clients, make_settings, make_expectation, share_request, rows
):
    settings = make_settings(share_facts=frozenset({"private_labels"}))
    for client in make_clients():
        request = share_request(sends=tuple(CARRIERS.keys() - ONLY_RETURNED), rows=rows, facts=("private_labels",))
        (expressed,) = express([client], [first_state(client, settings)], [request], settings)
        for carrier, tensors in expressed.items():
            CARRIERS[carrier].check(tensors, make_expectation(client, rows=rows))


@pytest.mark.parametrize("carrier", ["weights", "prototypes", "head"])
def test_what_a_client_of_another_architecture_expresses_is_not(
    make_clients, make_settings, make_expectation, share_request, carrier
):
    settings = make_settings()
    small, wide = make_clients()[:2]
    (expressed,) = express([small], [first_state(small, settings)], [share_request(sends=(carrier,))], settings)
    with pytest.raises(InvalidKnowledgeError):
        CARRIERS[carrier].check(expressed[carrier], make_expectation(wide))


def test_an_expectation_cannot_be_changed(make_clients, make_expectation):
    with pytest.raises(FrozenInstanceError):
        make_expectation(make_clients()[0]).num_classes = 2
