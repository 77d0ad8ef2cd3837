from dataclasses import replace

import pytest
import torch

from fedfuse.carriers import head
from fedfuse.client.client import first_state
from fedfuse.knowledge import InvalidKnowledgeError
from fedfuse.messages import Request


def valid():
    return {"weight": torch.ones(3, 5), "bias": torch.zeros(3)}


def test_a_client_sends_the_weights_of_its_last_layer(make_clients, make_settings):
    clients, settings = make_clients(("small",)), make_settings()
    states = [first_state(client, settings) for client in clients]
    for own, state in zip(head.express(clients, states, [Request(1)] * 5, settings), states, strict=True):
        assert set(own) == {"weight", "bias"}
        assert torch.equal(own["weight"], state.parameters["head.weight"])
        assert torch.equal(own["bias"], state.parameters["head.bias"])


def test_a_model_without_a_head_sends_none(make_clients, make_settings):
    client, settings = make_clients(("small",))[0], make_settings()
    headless = replace(client, architecture=replace(client.architecture, has_head=False))
    with pytest.raises(InvalidKnowledgeError, match="no head of its own"):
        head.express([headless], [first_state(client, settings)], [Request(1)], settings)


def test_a_head_of_the_right_shape_and_type_is_accepted(make_clients, make_expectation):
    head.check(valid(), make_expectation(make_clients(("small",))[0]))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight": torch.ones(3, 5)}, r"came as \['weight'\]"),
        (valid() | {"more": torch.ones(1)}, "came as"),
        (valid() | {"weight": torch.ones(3, 4)}, "expected"),
        (valid() | {"bias": torch.ones(4)}, "expected"),
        (valid() | {"bias": torch.ones(3, dtype=torch.int64)}, "wrong type"),
        (valid() | {"weight": torch.ones(3, 5, dtype=torch.float16)}, "wrong type"),
    ],
)
def test_other_heads_are_refused(make_clients, make_expectation, tensors, message):
    with pytest.raises(InvalidKnowledgeError, match=message):
        head.check(tensors, make_expectation(make_clients(("small",))[0]))


def test_stacking_gives_a_row_to_each_client(make_clients, make_expectation):
    own = [{"weight": torch.full((3, 5), float(row)), "bias": torch.full((3,), -float(row))} for row in range(4)]
    stacked = head.stack(own, [make_expectation(make_clients(("small",))[0])] * 4)
    assert stacked["weight"].shape == (4, 3, 5)
    assert stacked["weight"][:, 0, 0].tolist() == [0, 1, 2, 3]
    assert stacked["bias"][:, 2].tolist() == [0, -1, -2, -3]


def test_a_fused_head_replaces_the_own_and_nothing_else(make_clients, make_settings):
    clients, settings = make_clients(("small",))[:1], make_settings()
    before = first_state(clients[0], settings)
    request = Request(1, fused={"head": valid()}, fused_round=1)
    (after,) = head.absorb(clients, [before], [request], settings, None)
    changed = {name for name, tensor in after.parameters.items() if not torch.equal(tensor, before.parameters[name])}
    assert changed == {"head.weight", "head.bias"}
    assert list(after.parameters) == list(before.parameters)
    assert after.parameters["head.weight"].dtype == torch.float64
    assert (after.parameters["head.weight"] == 1).all()


def test_a_fused_head_that_does_not_fit_is_refused(make_clients, make_settings):
    clients, settings = make_clients(("small",))[:1], make_settings()
    request = Request(1, fused={"head": valid() | {"weight": torch.ones(3, 4)}}, fused_round=1)
    with pytest.raises(InvalidKnowledgeError, match="does not fit"):
        head.absorb(clients, [first_state(clients[0], settings)], [request], settings, None)
