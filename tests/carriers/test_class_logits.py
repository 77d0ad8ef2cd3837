from dataclasses import replace

import pytest
import torch

from fedfuse.carriers import class_logits
from fedfuse.client.client import first_state
from fedfuse.client.learn import learn
from fedfuse.client.predict import predict
from fedfuse.client.state import ClientState
from fedfuse.data.samples import Samples
from fedfuse.engine import sequential
from fedfuse.knowledge import InvalidKnowledgeError
from fedfuse.messages import Request
from fedfuse.objectives.class_logits import ClassLogits


def no_fit(jobs):
    raise AssertionError("class logits are kept, not trained on at once")


def fused_request(values, mask=(True, True, True)):
    tensors = {"class_logits": values, "mask": torch.tensor(mask)}
    return Request(round=1, fused={"class_logits": tensors}, fused_round=1)


@pytest.fixture
def cohort(make_clients, make_settings):
    clients, settings = make_clients(("small",)), make_settings(objective=ClassLogits(weight=5.0))
    return clients, [first_state(client, settings) for client in clients], settings


# -- express -----------------------------------------------------------------------------------------------------------


def test_class_logits_are_the_mean_logits_of_the_samples_of_each_class_and_absent_classes_are_masked(cohort):
    clients, states, settings = cohort
    expressed = class_logits.express(clients, states, [Request(round=1)] * 5, settings)
    held = set()
    for client, state, own in zip(clients, states, expressed, strict=True):
        labels = client.data.train.labels
        logits = predict(client.architecture, [state.parameters], [client.data.train.inputs])[0].logits
        assert own["class_logits"].shape == (3, 3)
        assert own["mask"].dtype == torch.bool
        for label in range(3):
            members = logits[labels == label]
            assert own["mask"][label] == (len(members) > 0)
            expected = members.mean(0) if len(members) else torch.zeros(3, dtype=torch.float64)
            torch.testing.assert_close(own["class_logits"][label], expected, rtol=0, atol=1e-14)
            held.add(bool(len(members)))
    assert held == {True, False}


def test_validation_and_test_samples_do_not_enter(cohort, make_samples):
    (client, *_), (state, *_), settings = cohort
    (before,) = class_logits.express([client], [state], [Request(round=1)], settings)
    data = replace(client.data, validation=make_samples(30, 5), test=make_samples(30, 6))
    (after,) = class_logits.express([replace(client, data=data)], [state], [Request(round=1)], settings)
    assert torch.equal(before["class_logits"], after["class_logits"])


def test_a_client_without_samples_has_no_class_logits(cohort):
    (client, *_), (state, *_), settings = cohort
    nothing = Samples(torch.empty(0, 1, 4, 4, dtype=torch.float64), torch.empty(0, dtype=torch.int64))
    client = replace(client, data=replace(client.data, train=nothing))
    (own,) = class_logits.express([client], [state], [Request(round=1)], settings)
    assert own["mask"].tolist() == [False] * 3
    assert own["class_logits"].tolist() == [[0] * 3] * 3


# -- check -------------------------------------------------------------------------------------------------------------


def valid(**changes):
    return {"class_logits": torch.zeros(3, 3), "mask": torch.ones(3, dtype=torch.bool)} | changes


def test_class_logits_of_the_right_shape_and_type_are_accepted(make_clients, make_expectation):
    class_logits.check(valid(), make_expectation(make_clients()[0]))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"class_logits": torch.zeros(3, 3)}, "came as"),
        ({"mask": torch.ones(3, dtype=torch.bool)}, "came as"),
        (valid(counts=torch.ones(3)), "came as"),
        (valid(class_logits=torch.zeros(3, 4)), r"shape \[3, 4\], expected \[3, 3\]"),
        (valid(class_logits=torch.zeros(2, 3)), r"shape \[2, 3\]"),
        (valid(class_logits=torch.zeros(3, 3, 1)), r"shape \[3, 3, 1\]"),
        (valid(mask=torch.ones(2, dtype=torch.bool)), "shape"),
        (valid(mask=torch.ones(3, 1, dtype=torch.bool)), "shape"),
        (valid(class_logits=torch.zeros(3, 3, dtype=torch.int64)), "wrong type"),
        (valid(mask=torch.ones(3)), "wrong type"),
    ],
)
def test_other_class_logits_are_refused(make_clients, make_expectation, tensors, message):
    with pytest.raises(InvalidKnowledgeError, match=message):
        class_logits.check(tensors, make_expectation(make_clients()[0]))


# -- stack -------------------------------------------------------------------------------------------------------------


def test_stacking_gives_a_row_to_each_client(make_clients, make_expectation):
    tensors = [valid(class_logits=torch.full((3, 3), float(client))) for client in range(4)]
    tensors[2]["mask"] = torch.tensor([True, False, True])
    stacked = class_logits.stack(tensors, [make_expectation(make_clients()[0])] * 4)
    assert set(stacked) == {"class_logits", "mask"}
    assert stacked["class_logits"].shape == (4, 3, 3)
    assert stacked["class_logits"][:, 0, 0].tolist() == [0, 1, 2, 3]
    assert stacked["mask"].sum(1).tolist() == [3, 3, 2, 3]


# -- absorb ------------------------------------------------------------------------------------------------------------


def test_fused_class_logits_are_kept_in_the_dtype_of_the_run_beside_what_was_kept_before(cohort):
    clients, states, settings = cohort
    before = ClientState(states[0].parameters, received={"soft_labels": {}, "class_logits": {}}, absorbed_round=2)
    request = fused_request(torch.full((3, 3), 0.5, dtype=torch.float32), (True, False, True))
    (after,) = class_logits.absorb(clients[:1], [before], [request], settings, no_fit)
    assert after.parameters is before.parameters
    assert after.absorbed_round == 2
    assert set(after.received) == {"soft_labels", "class_logits"}
    assert after.received["class_logits"]["class_logits"].dtype == torch.float64
    assert (after.received["class_logits"]["class_logits"] == 0.5).all()
    assert after.received["class_logits"]["mask"].tolist() == [True, False, True]


def test_the_next_learn_pulls_the_answers_to_each_class_towards_what_was_absorbed(cohort):
    clients, states, settings = cohort
    client, state = clients[4], states[4]
    # Logits that are neither centred nor small: only what a softmax makes of them may count.
    target = torch.tensor([[50.0, 50, 49], [48, 50, 50], [50, 48, 50]], dtype=torch.float64)
    (kept,) = class_logits.absorb([client], [state], [fused_request(target)], settings, no_fit)

    def distance(start):
        (learnt,) = learn([client], [start], 1, settings, sequential.fit)
        (own,) = class_logits.express([client], [learnt], [Request(round=1)], settings)
        return (own["class_logits"].softmax(1) - target.softmax(1)).square().mean().item()

    assert distance(kept) < 0.5 * distance(state)


@pytest.mark.parametrize(
    ("values", "mask"),
    [
        (torch.zeros(3, 4), (True,) * 3),
        (torch.zeros(2, 3), (True,) * 3),
        (torch.zeros(3, 3), (True,) * 2),
    ],
)
def test_fused_class_logits_of_other_classes_are_refused(cohort, values, mask):
    clients, states, settings = cohort
    with pytest.raises(InvalidKnowledgeError, match="do not fit this client's classes"):
        class_logits.absorb(clients[:1], states[:1], [fused_request(values, mask)], settings, no_fit)
