from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from fedfuse.client.client import first_state
from fedfuse.privacy.noise import Noise
from fedfuse.privacy.swing import Swing
from fedfuse.randomness import torch_seed


def test_first_weights_are_drawn_for_the_client_and_the_seed_and_for_nothing_else(make_clients, make_settings):
    clients, settings = make_clients(("small",)), make_settings()
    first = [first_state(client, settings).parameters["head.weight"] for client in clients]
    assert len({tuple(weights.flatten().tolist()) for weights in first}) == len(clients)
    assert torch.equal(first_state(clients[1], settings).parameters["head.weight"], first[1])
    longer = replace(settings, learn=settings.absorb, share_facts=frozenset())
    assert torch.equal(first_state(clients[1], longer).parameters["head.weight"], first[1])
    other_seed = replace(settings, seed=8)
    assert not torch.equal(first_state(clients[1], other_seed).parameters["head.weight"], first[1])


def test_first_weights_come_from_the_stream_of_initial_weights(make_clients, make_settings):
    client, settings = make_clients()[2], make_settings()
    expected = client.architecture.initial_parameters(torch_seed(7, "initial weights", client=2), torch.float64)
    state = first_state(client, settings)
    assert set(state.parameters) == set(expected)
    assert all(torch.equal(state.parameters[name], tensor) for name, tensor in expected.items())


def test_a_first_state_remembers_nothing_and_has_the_dtype_of_the_run(make_clients, make_settings):
    state = first_state(make_clients()[0], make_settings(dtype=torch.float32))
    assert {tensor.dtype for tensor in state.parameters.values()} == {torch.float32}
    assert (state.objective_state, state.received, state.absorbed_round) == ({}, {}, -1)


def test_the_number_of_classes_is_that_of_their_names(make_settings):
    assert make_settings(class_names=("no", "yes")).num_classes == 2


@pytest.mark.parametrize(
    ("protectors", "kept"),
    [
        ((), False),
        ((Noise(),), False),
        ((Swing(likelihood="density"),), False),
        ((Swing(likelihood="memorisation"),), True),
        ((Noise(), Swing()), True),
    ],
)
def test_fused_soft_labels_are_kept_only_where_a_protector_compares_with_them(make_settings, protectors, kept):
    assert make_settings(protectors=protectors).keeps_fused_soft_labels is kept


def test_clients_and_settings_cannot_be_changed(make_clients, make_settings):
    with pytest.raises(FrozenInstanceError):
        make_clients()[0].client_id = 3
    with pytest.raises(FrozenInstanceError):
        make_settings().seed = 3
