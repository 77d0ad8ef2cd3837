import pytest
import torch

from fedfuse.carriers import private_features
from fedfuse.client.client import first_state
from fedfuse.client.predict import predict
from fedfuse.knowledge import InvalidKnowledgeError
from fedfuse.messages import Request

ALLOWED = frozenset({"private_labels"})


def valid(number=4):
    labels = torch.arange(number) % 3
    return {"features": torch.ones(number, 5), "logits": torch.ones(number, 3), "labels": labels}


def express(clients, settings, facts):
    states = [first_state(client, settings) for client in clients]
    requests = [Request(1, facts=facts)] * len(clients)
    return private_features.express(clients, states, requests, settings), states


def test_clients_send_what_their_model_makes_of_every_training_sample(make_clients, make_settings):
    clients = make_clients(("small",), sizes=(1, 5, 0))
    expressed, states = express(clients, make_settings(share_facts=ALLOWED), ("private_labels",))
    for client, state, own in zip(clients, states, expressed, strict=True):
        (outputs,) = predict(client.architecture, [state.parameters], [client.data.train.inputs])
        assert torch.equal(own["features"], outputs.features)
        assert torch.equal(own["logits"], outputs.logits)
        assert torch.equal(own["labels"], client.data.train.labels)
    assert [len(own["labels"]) for own in expressed] == [1, 5, 0]


@pytest.mark.parametrize(
    ("facts", "allowed"),
    [((), ALLOWED), (("private_labels",), frozenset()), (("label_counts",), ALLOWED), ((), frozenset())],
)
def test_nothing_travels_unless_it_is_declared_and_allowed(make_clients, make_settings, facts, allowed):
    with pytest.raises(InvalidKnowledgeError, match="private_labels may not be told"):
        express(make_clients(("small",)), make_settings(share_facts=allowed), facts)


@pytest.mark.parametrize("number", [0, 1, 4])
def test_equally_many_features_logits_and_labels_are_accepted(make_clients, make_expectation, number):
    private_features.check(valid(number), make_expectation(make_clients(("small",))[0]))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"features": torch.ones(4, 5)}, "came as"),
        (valid() | {"features": torch.ones(4, 6)}, r"features have shape \[4, 6\], expected \[4, 5\]"),
        (valid() | {"logits": torch.ones(3, 3)}, r"logits have shape \[3, 3\], expected \[4, 3\]"),
        (valid() | {"labels": torch.zeros((), dtype=torch.int64)}, "have shape"),
        (valid() | {"labels": torch.zeros(4, 1, dtype=torch.int64)}, "labels have shape"),
        (valid() | {"logits": torch.ones(4, 3, dtype=torch.int64)}, "wrong type"),
        (valid() | {"labels": torch.zeros(4)}, "of no class"),
        (valid() | {"labels": torch.tensor([0, 1, 2, 3])}, "of no class"),
        (valid() | {"labels": torch.tensor([0, 1, 2, -1])}, "of no class"),
    ],
)
def test_others_are_refused(make_clients, make_expectation, tensors, message):
    with pytest.raises(InvalidKnowledgeError, match=message):
        private_features.check(tensors, make_expectation(make_clients(("small",))[0]))


def test_samples_stand_one_after_another_with_their_owners():
    stacked = private_features.stack([valid(2), valid(0), valid(3)], [])
    assert stacked["owners"].tolist() == [0, 0, 2, 2, 2]
    assert stacked["labels"].tolist() == [0, 1, 0, 1, 2]
    assert stacked["features"].shape == (5, 5)
    assert stacked["logits"].shape == (5, 3)


def test_they_are_never_absorbed():
    with pytest.raises(InvalidKnowledgeError, match="cannot be absorbed"):
        private_features.absorb([], [], [], None, None)
