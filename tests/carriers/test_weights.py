import pytest
import torch

from fedfuse.carriers import weights
from fedfuse.client.client import first_state
from fedfuse.client.state import ClientState
from fedfuse.knowledge import InvalidKnowledgeError
from fedfuse.messages import Request


def no_fit(jobs):
    raise AssertionError("weights are loaded, not trained")


def weights_request(tensors):
    return Request(round=1, fused={"weights": tensors}, fused_round=1)


@pytest.fixture
def client(make_clients):
    return make_clients()[0]


@pytest.fixture
def own(client, make_settings):
    return dict(first_state(client, make_settings()).parameters)


@pytest.mark.parametrize("names", [("small",), ("cnn",)])
def test_what_one_client_expresses_another_of_its_architecture_loads(make_clients, make_settings, names):
    clients, settings = make_clients(names), make_settings()
    states = [first_state(client, settings) for client in clients]
    expressed = weights.express(clients, states, [Request(round=1)] * 5, settings)
    requests = [weights_request(tensors) for tensors in expressed[::-1]]
    loaded = weights.absorb(clients, states, requests, settings, no_fit)
    for after, giver in zip(loaded, states[::-1], strict=True):
        assert set(after.parameters) == set(giver.parameters)
        assert all(torch.equal(after.parameters[name], tensor) for name, tensor in giver.parameters.items())


def test_loading_replaces_the_weights_and_nothing_else(client, own, make_settings):
    before = ClientState(
        own,
        objective_state={"transfer.0.mean": torch.tensor(1.0)},
        received={"prototypes": {}},
        absorbed_round=3,
    )
    ones = {name: torch.ones_like(tensor, dtype=torch.float32) for name, tensor in own.items()}
    (after,) = weights.absorb([client], [before], [weights_request(ones)], make_settings(), no_fit)
    assert all((tensor == 1).all() for tensor in after.parameters.values())
    assert {tensor.dtype for tensor in after.parameters.values()} == {torch.float64}
    assert after.objective_state is before.objective_state
    assert after.received is before.received
    assert after.absorbed_round == 3


@pytest.mark.parametrize("change", ["missing", "extra", "renamed", "transposed", "grown", "none"])
def test_other_names_or_shapes_are_refused_on_both_sides(client, own, make_settings, make_expectation, change):
    state = ClientState(dict(own))
    weight = own["body.1.weight"]
    if change in ("missing", "renamed"):
        del own["body.1.weight"]
    match change:
        case "extra":
            own["body.9.weight"] = weight
        case "renamed":
            own["body.01.weight"] = weight
        case "transposed":
            own["body.1.weight"] = weight.T
        case "grown":
            own["body.1.weight"] = torch.cat([weight, weight])
        case "none":
            own.clear()
    with pytest.raises(InvalidKnowledgeError, match="names and shapes of the client's architecture"):
        weights.check(own, make_expectation(client))
    with pytest.raises(InvalidKnowledgeError, match="do not fit this client's architecture"):
        weights.absorb([client], [state], [weights_request(own)], make_settings(), no_fit)


def test_names_and_shapes_of_the_architecture_are_accepted(client, own, make_expectation):
    weights.check(own, make_expectation(client))


def test_cohorts_are_stacked_in_the_order_of_their_first_client(make_clients, make_settings, make_expectation):
    clients, settings = make_clients(("wide", "small", "cnn")), make_settings()
    tensors = [first_state(client, settings).parameters for client in clients]
    stacks = weights.stack(tensors, [make_expectation(client) for client in clients])
    assert [own.positions.tolist() for own in stacks] == [[0, 3], [1, 4], [2]]
    assert [own.architecture for own in stacks] == [client.architecture.signature for client in clients[:3]]
    for own in stacks:
        assert set(own.weights) == set(tensors[own.positions[0]])
        for name, stacked in own.weights.items():
            for row, position in enumerate(own.positions):
                assert torch.equal(stacked[row], tensors[position][name])


def test_weights_of_another_kind_of_number_are_refused(make_clients, make_expectation):
    client = make_clients(["small"])[0]
    weights_ = client.architecture.initial_parameters(0, torch.float32)
    name = next(iter(weights_))
    expected = make_expectation(client, 1, torch.arange(3))
    weights.check(weights_, expected)
    with pytest.raises(InvalidKnowledgeError, match=r"type torch\.float16"):
        weights.check({**weights_, name: weights_[name].half()}, expected)
