from dataclasses import replace

import pytest
import torch

from fedfuse.carriers import generated
from fedfuse.client.client import first_state
from fedfuse.knowledge import InvalidKnowledgeError
from fedfuse.messages import Request


def valid():
    return {"features": torch.ones(4, 5), "labels": torch.tensor([0, 1, 2, 0])}


def test_clients_send_none(make_clients, make_settings):
    clients, settings = make_clients(("small",))[:1], make_settings()
    with pytest.raises(InvalidKnowledgeError, match="cannot send"):
        generated.express(clients, [first_state(clients[0], settings)], [Request(1)], settings)
    with pytest.raises(InvalidKnowledgeError, match="cannot send"):
        generated.stack([valid()], [])


def test_labelled_features_of_the_right_width_are_accepted(make_clients, make_expectation):
    generated.check(valid(), make_expectation(make_clients(("small",))[0]))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"features": torch.ones(4, 5)}, r"came as \['features'\]"),
        (valid() | {"features": torch.ones(4, 6)}, r"\[4, 6\], expected"),
        (valid() | {"features": torch.ones(4, 5, 1)}, "expected numbers of shape"),
        (valid() | {"features": torch.ones(4, 5, dtype=torch.int64)}, "expected numbers"),
        (valid() | {"labels": torch.tensor([0, 1, 2])}, "a label each"),
        (valid() | {"labels": torch.zeros(4)}, "a label each"),
        ({"features": torch.ones(0, 5), "labels": torch.zeros(0, dtype=torch.int64)}, "one sample at least"),
        (valid() | {"labels": torch.tensor([0, 1, 2, 3])}, "of no class"),
        (valid() | {"labels": torch.tensor([0, -1, 2, 1])}, "of no class"),
    ],
)
def test_others_are_refused(make_clients, make_expectation, tensors, message):
    with pytest.raises(InvalidKnowledgeError, match=message):
        generated.check(tensors, make_expectation(make_clients(("small",))[0]))


def test_they_are_kept_beside_what_was_received_before_and_replace_the_last(make_clients, make_settings):
    clients, settings = make_clients(("small",))[:1], make_settings()
    before = replace(
        first_state(clients[0], settings),
        received={"generated": {"features": torch.zeros(1, 5)}, "prototypes": {"mask": torch.ones(3)}},
    )
    request = Request(1, fused={"generated": valid()}, fused_round=1)
    (after,) = generated.absorb(clients, [before], [request], settings, None)
    assert set(after.received) == {"generated", "prototypes"}
    assert after.received["generated"]["features"].dtype == torch.float64
    assert (after.received["generated"]["features"] == 1).all()
    assert after.received["generated"]["labels"].tolist() == [0, 1, 2, 0]
    assert after.parameters is before.parameters


@pytest.mark.parametrize("features", [torch.ones(4, 6), torch.ones(3, 5), torch.ones(4)])
def test_those_that_do_not_fit_are_not_kept(make_clients, make_settings, features):
    clients, settings = make_clients(("small",))[:1], make_settings()
    request = Request(1, fused={"generated": valid() | {"features": features}}, fused_round=1)
    with pytest.raises(InvalidKnowledgeError, match="do not fit"):
        generated.absorb(clients, [first_state(clients[0], settings)], [request], settings, None)
