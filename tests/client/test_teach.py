from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from fedfuse.client import teach as module
from fedfuse.client.client import first_state
from fedfuse.client.fit import Term
from fedfuse.client.predict import predict
from fedfuse.client.teach import (
    Taught,
    label_stream,
    label_term,
    repeated_plan,
    scaled,
    teach,
    transfer_stream,
    transfer_term,
)
from fedfuse.data.federation import TransferSet
from fedfuse.objectives.class_relation import ClassRelation
from fedfuse.objectives.cross_entropy import CrossEntropy
from fedfuse.objectives.kd import KD
from fedfuse.objectives.rkd import RKD
from fedfuse.objectives.sum import Sum
from fedfuse.transfer.gap_mixture import GapMixture
from fedfuse.transfer.lesson import Lesson
from fedfuse.transfer.margin import Margin
from fedfuse.transfer.where_better import WhereBetter

ROWS = torch.tensor([1, 4, 7])


@dataclass(frozen=True)
class Noting:
    """A step that notes what it is given, and appends its number to what it and the lesson remember."""

    number: int
    calls: list
    needs_own: ClassVar[bool] = False
    weighs: ClassVar[bool] = True
    changes_inputs: ClassVar[bool] = False

    def initial_state(self, num_classes):
        return {"digits": torch.tensor(10 * num_classes)}

    def __call__(self, lesson, state, round, generator):
        self.calls.append((self.number, lesson, state, round, generator.random()))
        weights = torch.zeros(len(lesson.inputs)) if lesson.weights is None else lesson.weights
        return replace(lesson, weights=10 * weights + self.number), {"digits": state["digits"] + self.number}


@pytest.fixture
def fused(fused_soft_labels):
    return fused_soft_labels()["soft_labels"]


def lesson_of(settings, fused, **changes):
    return Lesson(settings.transfer.inputs, fused, ROWS, **changes)


def taught_by(settings, clients, fused, states=None, verb="absorb", round=3):
    states = states or [first_state(client, settings) for client in clients]
    return teach(clients, states, [(fused, ROWS)] * len(clients), verb, [round] * len(clients), settings)


def with_relations(state):
    received = {
        "relations": torch.rand(10, 3, dtype=torch.float64),
        "positions": torch.arange(10) % 3,
        "known": torch.arange(10) < 3,
    }
    return replace(state, received={"relations": received})


# -- lessons -----------------------------------------------------------------------------------------------------------


def test_without_steps_a_lesson_is_what_was_fused_and_nobody_is_asked(make_clients, make_settings, fused, monkeypatch):
    monkeypatch.setattr(module, "predict", None)
    clients, settings = make_clients(("small",)), make_settings()
    taught = taught_by(settings, clients, fused)
    assert len(taught) == len(clients)
    for one in taught:
        assert one.lesson.inputs is settings.transfer.inputs
        assert one.lesson.soft_labels is fused
        assert one.lesson.rows is ROWS
        assert (one.lesson.own, one.lesson.weights, one.memory) == (None, None, {})


def test_steps_are_told_the_domains_of_transfer_samples_where_one_needs_them(make_clients, make_settings, fused):
    clients, plain = make_clients(("small",), sizes=(3,)), make_settings()
    domains = torch.arange(len(plain.transfer)) % 3

    def told(step, transfer):
        (taught,) = taught_by(replace(plain, lesson=(step,), transfer=transfer), clients, fused)
        return taught.lesson.domains

    transfer = TransferSet(plain.transfer.inputs, domains)
    shares = told(GapMixture(by="domain"), transfer)
    assert shares.dtype == plain.dtype
    assert torch.equal(shares, torch.eye(3, dtype=plain.dtype)[domains])
    assert told(GapMixture(), transfer) is told(Margin(), transfer) is None
    assert told(GapMixture(), plain.transfer) is None


def test_each_client_is_taught_what_is_meant_for_it(make_clients, make_settings, fused_soft_labels):
    clients, settings = make_clients(("small",), sizes=(3, 4)), make_settings()
    given = [
        (fused_soft_labels()["soft_labels"], ROWS),
        (fused_soft_labels(seed=1)["soft_labels"], torch.tensor([2])),
    ]
    states = [first_state(client, settings) for client in clients]
    taught = teach(clients, states, given, "learn", [1] * len(clients), settings)
    assert [(one.lesson.soft_labels, one.lesson.rows) for one in taught] == given


def test_steps_follow_each_other_and_each_has_a_memory_of_its_own(make_clients, make_settings, fused):
    calls = []
    clients = make_clients(("small",), sizes=(3,))
    settings = make_settings(lesson=(Noting(1, calls), Noting(2, calls)))
    remembered = {"lesson.1.digits": torch.tensor(500), "transfer.0.t": torch.tensor(0.5)}
    state = replace(first_state(clients[0], settings), objective_state=remembered)
    (taught,) = taught_by(settings, clients, fused, [state])
    assert [(number, round) for number, _, _, round, _ in calls] == [(1, 3), (2, 3)]
    assert calls[0][1].weights is None
    assert (calls[1][1].weights == 1).all()
    assert (taught.lesson.weights == 12).all()
    # Three classes: the first step starts with 30, the second goes on.
    assert [step[2]["digits"].item() for step in calls] == [30, 500]
    assert {name: value.item() for name, value in taught.memory.items()} == {
        "lesson.0.digits": 31,
        "lesson.1.digits": 502,
    }
    assert state.objective_state is remembered
    assert remembered["lesson.1.digits"] == 500


def test_what_is_drawn_depends_on_verb_round_client_and_seed_alone(make_clients, make_settings, fused):
    clients = make_clients(("small",), sizes=(3, 3))

    def drawn(clients, verb="absorb", round=3, **changes):
        calls = []
        taught_by(make_settings(lesson=(Noting(1, calls),), **changes), clients, fused, verb=verb, round=round)
        return [call[4] for call in calls]

    usual = drawn(clients)
    assert len({*usual, *drawn(clients, "learn"), *drawn(clients, round=4), *drawn(clients, seed=8)}) == 8
    assert drawn(clients) == usual
    assert drawn(clients[::-1]) == usual[::-1]


def test_steps_of_one_client_draw_one_after_the_other(make_clients, make_settings, fused):
    calls = []
    settings = make_settings(lesson=(Noting(1, calls), Noting(2, calls)))
    taught_by(settings, make_clients(("small",), sizes=(3,)), fused)
    assert calls[0][4] != calls[1][4]


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({"lesson": (Margin(),)}, False),
        ({"objective": Sum([KD(), RKD()])}, False),
        ({"lesson": (WhereBetter(),)}, True),
        ({"lesson": (Margin(), GapMixture())}, True),
        ({"objective": ClassRelation()}, True),
    ],
)
def test_clients_answer_themselves_only_where_that_is_needed(make_clients, make_settings, fused, changes, needed):
    clients, settings = make_clients(("small",), sizes=(3, 4)), make_settings(**changes)
    states = [first_state(client, settings) for client in clients]
    for client, state, one in zip(clients, states, taught_by(settings, clients, fused, states), strict=True):
        (outputs,) = predict(client.architecture, [state.parameters], [settings.transfer.inputs])
        own = torch.softmax(outputs.logits, 1)
        assert (one.lesson.own is not None) == needed
        if needed:
            torch.testing.assert_close(one.lesson.own, own, rtol=0, atol=1e-14)


# -- what is learnt on transfer samples --------------------------------------------------------------------------------


def test_a_plain_lesson_is_a_stream_of_inputs_and_soft_labels(make_clients, make_settings, fused):
    (client,) = make_clients(("small",), sizes=(3,))
    settings, plan = make_settings(), torch.tensor([[1, 4], [7, -1]])
    # What the objective does not need stays out, also where it is known.
    lesson = lesson_of(settings, fused, own=fused.flip(1))
    state = with_relations(first_state(client, settings))
    stream = transfer_stream(client, state, Taught(lesson, {}), plan, None, settings)
    assert stream.tensors == {"inputs": settings.transfer.inputs, "soft_labels": fused}
    assert stream.plan is plan
    assert stream.constants == {}


def test_weights_are_in_the_precision_of_the_run_and_a_share_is_a_scale(make_clients, make_settings, fused):
    (client,) = make_clients(("small",), sizes=(3,))
    settings = make_settings(torch.float32)
    lesson = lesson_of(settings, fused.float(), weights=torch.arange(10, dtype=torch.float64))
    stream = transfer_stream(client, first_state(client, settings), Taught(lesson, {}), ROWS, 0.25, settings)
    assert set(stream.tensors) == {"inputs", "soft_labels", "weights"}
    assert stream.tensors["weights"].dtype == torch.float32
    assert stream.tensors["weights"].tolist() == list(range(10))
    assert {name: (value.item(), value.dtype) for name, value in stream.constants.items()} == {
        "scale": (0.25, torch.float32)
    }


def test_an_objective_gets_own_answers_and_known_classes_where_it_needs_them(make_clients, make_settings, fused):
    (client,) = make_clients(("small",), sizes=(3,))
    labels = torch.tensor([2, 0, 2])
    client = replace(client, data=replace(client.data, train=replace(client.data.train, labels=labels)))
    settings = make_settings(objective=Sum([KD(), ClassRelation()]))
    lesson = lesson_of(settings, fused, own=fused.flip(1))
    stream = transfer_stream(client, first_state(client, settings), Taught(lesson, {}), ROWS, 0.5, settings)
    assert stream.tensors == {"inputs": lesson.inputs, "soft_labels": fused, "own_soft_labels": lesson.own}
    assert set(stream.constants) == {"known_classes", "scale"}
    assert stream.constants["known_classes"].tolist() == [True, False, True]


def test_relations_are_learnt_from_once_they_were_received(make_clients, make_settings, fused):
    (client,) = make_clients(("small",), sizes=(3,))
    objective = Sum([KD(), RKD()])
    settings = make_settings(objective=objective)
    before = first_state(client, settings)
    after = with_relations(before)
    taught = Taught(lesson_of(settings, fused), {})
    assert set(transfer_stream(client, before, taught, ROWS, None, settings).tensors) == {"inputs", "soft_labels"}
    received = after.received["relations"]
    assert transfer_stream(client, after, taught, ROWS, None, settings).tensors == {
        "inputs": settings.transfer.inputs,
        "soft_labels": fused,
        "relations": received["relations"],
        "positions": received["positions"],
        "relations_known": received["known"],
    }
    assert transfer_term(settings, before) == Term("transfer", objective.part({"soft_labels"}), on_fused_head=True)
    assert transfer_term(settings, after).objective.terms == (KD(), RKD())


def test_what_needs_labels_is_not_learnt_on_transfer_samples(make_clients, make_settings):
    (client,) = make_clients(("small",), sizes=(3,))
    settings = make_settings(objective=Sum([CrossEntropy(), ClassRelation(), KD()], weights=[1, 2, 3]))
    term = transfer_term(settings, first_state(client, settings))
    assert (term.stream, term.weight, term.on_fused_head) == ("transfer", 1.0, True)
    assert (term.objective.terms, term.objective.weights) == ((ClassRelation(), KD()), (2, 3))


# -- what is learnt beside it ------------------------------------------------------------------------------------------


def test_own_samples_are_visited_in_as_many_steps_with_their_share(make_clients, make_settings):
    (client,) = make_clients(("small",), sizes=(5,))
    stream = label_stream(client, 4, 3, np.random.default_rng(0), 0.125, make_settings())
    assert stream.tensors == {"inputs": client.data.train.inputs, "labels": client.data.train.labels}
    assert torch.equal(stream.plan, repeated_plan(5, 4, 3, np.random.default_rng(0)))
    assert {name: value.item() for name, value in stream.constants.items()} == {"scale": 0.125}
    # The first head learns from labels, whatever there is beside it.
    assert label_term() == Term("private", CrossEntropy(), weight=1.0, on_fused_head=False)


def test_a_client_without_samples_has_a_row_that_is_never_visited(make_clients, make_settings):
    (client,) = make_clients(("small",), sizes=(0,))
    stream = label_stream(client, 4, 3, np.random.default_rng(0), 0.125, make_settings())
    assert {name: (len(tensor), tensor.dtype) for name, tensor in stream.tensors.items()} == {
        "inputs": (1, torch.float64),
        "labels": (1, torch.int64),
    }
    assert stream.tensors["inputs"].shape == (1, 1, 4, 4)
    assert (stream.plan == -1).all()


@pytest.mark.parametrize(
    ("number", "num_steps", "batch_size"), [(5, 4, 3), (6, 2, 3), (3, 5, 8), (1, 2, 4), (40, 2, 4)]
)
def test_full_batches_are_cut_from_whole_epochs(number, num_steps, batch_size):
    plan = repeated_plan(number, num_steps, batch_size, np.random.default_rng(1))
    assert plan.shape == (num_steps, batch_size)
    assert plan.dtype == torch.int64
    visited = plan.flatten().tolist()
    for start in range(0, len(visited), number):
        epoch = visited[start : start + number]
        assert len(set(epoch)) == len(epoch)
        assert set(epoch) <= set(range(number))
        assert len(epoch) < number or set(epoch) == set(range(number))


def test_every_epoch_of_a_plan_has_an_order_of_its_own():
    first, second, third = repeated_plan(20, 3, 20, np.random.default_rng(1)).tolist()
    assert first != second != third != first
    assert repeated_plan(20, 3, 20, np.random.default_rng(1)).tolist() == [first, second, third]


def test_without_samples_a_plan_is_padding_and_without_steps_it_is_empty():
    assert repeated_plan(0, 2, 3, np.random.default_rng(1)).tolist() == [[-1] * 3] * 2
    assert repeated_plan(5, 0, 3, np.random.default_rng(1)).shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_share_is_added_to_constants_only_where_there_is_one(make_settings, dtype):
    constants = {"known_classes": torch.tensor([True])}
    assert scaled(constants, None, make_settings(dtype)) is constants
    # A share of nothing is a share.
    for share in (0.0, 0.3):
        added = scaled(constants, share, make_settings(dtype))
        assert set(added) == {"known_classes", "scale"}
        assert torch.equal(added["scale"], torch.tensor(share, dtype=dtype))
    assert set(constants) == {"known_classes"}
