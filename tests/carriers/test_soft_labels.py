import math
from dataclasses import replace

import pytest
import torch

from fedfuse.carriers import soft_labels
from fedfuse.client.client import Predictors, first_state
from fedfuse.client.fit import FitResult
from fedfuse.client.predict import predict
from fedfuse.configuration import OptimizerSettings, TrainingSettings
from fedfuse.engine import sequential
from fedfuse.knowledge import InvalidKnowledgeError, Knowledge
from fedfuse.messages import Request
from fedfuse.objectives.kd import KD
from fedfuse.predictors.plain_head import PlainHead
from fedfuse.privacy.noise import Noise
from fedfuse.privacy.swing import Swing

NUM_TRANSFER = 10
SUBSET = torch.tensor([0, 3, 9])


@pytest.fixture
def cohort(make_clients, make_settings):
    clients, settings = make_clients(("small",)), make_settings()
    return clients, [first_state(client, settings) for client in clients], settings


def fused_request(tensors, fused_round=1):
    return Request(round=fused_round, fused={"soft_labels": tensors}, fused_round=fused_round)


class Recorder:
    """A runner that trains nothing and keeps the jobs."""

    def __call__(self, jobs):
        self.jobs = list(jobs)
        return [FitResult(job.parameters, {}) for job in jobs]


# -- express -----------------------------------------------------------------------------------------------------------


def test_soft_labels_are_the_predicted_probabilities_on_the_transfer_set(cohort, share_request):
    clients, states, settings = cohort
    expressed = soft_labels.express(clients, states, [share_request()] * 5, settings)
    for client, state, own in zip(clients, states, expressed, strict=True):
        logits = predict(client.architecture, [state.parameters], [settings.transfer.inputs])[0].logits
        assert set(own) == {"soft_labels"}
        assert torch.equal(own["soft_labels"], torch.softmax(logits, 1))
        torch.testing.assert_close(own["soft_labels"].sum(1), torch.ones(10, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_part_of_the_transfer_set_travels_with_its_row_numbers(cohort, share_request):
    clients, states, settings = cohort
    whole = soft_labels.express(clients, states, [share_request()] * 5, settings)
    part = soft_labels.express(clients, states, [share_request(rows=SUBSET)] * 5, settings)
    for own, everything in zip(part, whole, strict=True):
        assert set(own) == {"soft_labels", "rows"}
        assert own["rows"].dtype == torch.int32
        assert own["rows"].tolist() == SUBSET.tolist()
        torch.testing.assert_close(own["soft_labels"], everything["soft_labels"][SUBSET], rtol=0, atol=1e-14)


def test_each_client_answers_the_rows_that_it_was_asked_for(cohort, share_request):
    clients, states, settings = cohort
    requests = [share_request(rows=torch.arange(row + 1)) for row in range(5)]
    expressed = soft_labels.express(clients, states, requests, settings)
    assert [len(own["soft_labels"]) for own in expressed] == [1, 2, 3, 4, 5]


def test_soft_labels_come_from_the_predictor_that_is_meant_for_others(cohort, share_request):
    clients, states, settings = cohort
    settings = replace(
        settings,
        predictors=Predictors(
            share=lambda outputs: torch.full_like(outputs.logits, 0.25), personal=PlainHead(), general=PlainHead()
        ),
    )
    expressed = soft_labels.express(clients, states, [share_request()] * 5, settings)
    assert all((own["soft_labels"] == 0.25).all() for own in expressed)


def test_soft_labels_cannot_be_asked_for_without_rows(cohort):
    clients, states, settings = cohort
    with pytest.raises(InvalidKnowledgeError, match="without saying on which rows"):
        soft_labels.express(clients, states, [Request(round=1, sends=("soft_labels",))] * 5, settings)


# -- packing -----------------------------------------------------------------------------------------------------------


def test_only_a_part_carries_row_numbers():
    values = torch.rand(2, 3)
    assert set(soft_labels.pack(values, torch.arange(2), 2)) == {"soft_labels"}
    packed = soft_labels.pack(values, torch.tensor([1, 4]), 5)
    assert packed["soft_labels"] is values
    assert packed["rows"].tolist() == [1, 4]
    assert packed["rows"].dtype == torch.int32


@pytest.mark.parametrize("mask", [[True] * 4, [False, True, True, False], [False] * 4])
def test_fused_soft_labels_travel_without_the_rows_that_carry_nothing(mask):
    values, mask = torch.rand(4, 3), torch.tensor(mask)
    packed = soft_labels.pack_fused({"soft_labels": values, "mask": mask})
    assert torch.equal(packed["soft_labels"], values[mask])
    assert ("rows" in packed) == (not mask.all())
    assert "rows" not in packed or packed["rows"].tolist() == mask.nonzero().flatten().tolist()


# -- check -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def expect(make_clients, make_expectation):
    client = make_clients()[0]
    return lambda rows=None: make_expectation(client, rows=rows)


def certain(rows=NUM_TRANSFER, dtype=torch.float64):
    return torch.tensor([[0.5, 0.25, 0.25]], dtype=dtype).repeat(rows, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probabilities_on_the_right_rows_are_accepted(expect, dtype):
    soft_labels.check({"soft_labels": certain(dtype=dtype)}, expect())
    soft_labels.check({"soft_labels": certain(3, dtype), "rows": SUBSET.to(torch.int32)}, expect(SUBSET))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "came as"),
        ({"labels": certain()}, "came as"),
        ({"soft_labels": certain(), "rows": torch.arange(10)}, "came as"),
        ({"soft_labels": certain(), "mask": torch.ones(10, dtype=torch.bool)}, "came as"),
        ({"soft_labels": certain(9)}, r"shape \[9, 3\], expected \[10, 3\]"),
        ({"soft_labels": certain()[:, :2]}, r"shape \[10, 2\]"),
        ({"soft_labels": certain().unsqueeze(0)}, r"shape \[1, 10, 3\]"),
        ({"soft_labels": certain().flatten()}, r"shape \[30\]"),
        ({"soft_labels": certain(dtype=torch.float16)}, "type torch.float16"),
        ({"soft_labels": torch.tensor([[1, 0, 0]]).repeat(10, 1)}, "type torch.int64"),
        ({"soft_labels": certain().to(torch.complex64)}, "type torch.complex64"),
    ],
)
def test_what_is_no_matrix_of_floats_on_the_whole_set_is_refused(expect, tensors, message):
    with pytest.raises(InvalidKnowledgeError, match=message):
        soft_labels.check(tensors, expect())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"soft_labels": certain(3)}, "came as"),
        ({"soft_labels": certain(10), "rows": torch.arange(10)}, "shape"),
        ({"soft_labels": certain(3), "rows": torch.tensor([0, 3, 8])}, "other transfer rows"),
        ({"soft_labels": certain(3), "rows": torch.tensor([9, 3, 0])}, "other transfer rows"),
        ({"soft_labels": certain(3), "rows": torch.tensor([0, 3])}, "other transfer rows"),
        ({"soft_labels": certain(3), "rows": torch.tensor([[0, 3, 9]])}, "other transfer rows"),
    ],
)
def test_other_rows_than_were_asked_for_are_refused(expect, tensors, message):
    with pytest.raises(InvalidKnowledgeError, match=message):
        soft_labels.check(tensors, expect(SUBSET))


@pytest.mark.parametrize(
    ("row", "valid"),
    [
        ([0.5, 0.3, 0.2009], True),
        ([0.5, 0.3, 0.1991], True),
        ([0.5, 0.3, 0.2011], False),
        ([0.5, 0.3, 0.1989], False),
        ([0.6, 0.4009, -0.0009], True),
        ([0.6, 0.4011, -0.0011], False),
        ([2.0, -1.0, 0.0], False),
        ([0.0, 0.0, 0.0], False),
        ([1.0, 0.0, 0.0], True),
    ],
)
def test_one_row_off_the_simplex_is_enough_to_refuse(expect, row, valid):
    values = certain()
    values[6] = torch.tensor(row)
    if valid:
        soft_labels.check({"soft_labels": values}, expect())
    else:
        with pytest.raises(InvalidKnowledgeError, match="off the simplex"):
            soft_labels.check({"soft_labels": values}, expect())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_do_not_even_become_knowledge(value):
    values = certain()
    values[3, 1] = value
    with pytest.raises(InvalidKnowledgeError, match="is not finite"):
        Knowledge(0, 1, {"soft_labels": {"soft_labels": values}})


# -- stack -------------------------------------------------------------------------------------------------------------


def test_stacking_puts_every_row_in_its_place_and_masks_the_others(expect):
    rows = [torch.arange(10), torch.tensor([2, 5]), torch.tensor([9])]
    tensors = [{"soft_labels": torch.softmax(torch.randn(len(own), 3), 1)} for own in rows]
    stacked = soft_labels.stack(tensors, [expect(own) for own in rows])
    assert stacked["soft_labels"].shape == (3, 10, 3)
    assert stacked["soft_labels"].dtype == torch.float32
    assert stacked["mask"].dtype == torch.bool
    for client, own in enumerate(rows):
        assert stacked["mask"][client].nonzero().flatten().tolist() == own.tolist()
        assert torch.equal(stacked["soft_labels"][client, own], tensors[client]["soft_labels"])
        assert not stacked["soft_labels"][client, ~stacked["mask"][client]].any()


def test_what_rounding_left_below_zero_is_stacked_as_zero(expect):
    rounded = torch.tensor([[1.0005, -0.0005, 0.0]]).expand(10, 3)
    stacked = soft_labels.stack([{"soft_labels": rounded}], [expect(torch.arange(10))])
    assert stacked["soft_labels"][0].tolist() == 10 * [[pytest.approx(1.0005), 0.0, 0.0]]


# -- absorb ------------------------------------------------------------------------------------------------------------


def divergence(client, state, settings, target, rows):
    inputs = settings.transfer.inputs[rows]
    logits = predict(client.architecture, [state.parameters], [inputs])[0].logits
    return (target * (target.log() - torch.log_softmax(logits, 1))).sum(1).mean().item()


@pytest.mark.parametrize("rows", [None, [1, 2, 6, 7, 8]])
def test_absorbing_moves_a_model_towards_the_fused_soft_labels(cohort, fused_soft_labels, rows):
    clients, states, settings = cohort
    settings = replace(settings, absorb=TrainingSettings(60, 4, OptimizerSettings("adam", lr=0.02)))
    requests = [fused_request(fused_soft_labels(rows, seed=seed)) for seed in range(5)]
    taught = soft_labels.absorb(clients, states, requests, settings, sequential.fit)
    own_rows = torch.arange(10) if rows is None else torch.tensor(rows)
    for client, before, after, request in zip(clients, states, taught, requests, strict=True):
        target = request.fused["soft_labels"]["soft_labels"]
        distances = [divergence(client, state, settings, target, own_rows) for state in (before, after)]
        assert distances[1] < 0.6 * distances[0]


def test_only_rows_that_carry_knowledge_are_trained_on_each_once_an_epoch(cohort, fused_soft_labels):
    clients, states, settings = cohort
    rows, runner = [1, 2, 6, 7, 8], Recorder()
    fused = fused_soft_labels(rows)
    soft_labels.absorb(clients, states, [fused_request(fused)] * 5, settings, runner)
    for job, state in zip(runner.jobs, states, strict=True):
        stream = job.streams["transfer"]
        assert stream.tensors["inputs"] is settings.transfer.inputs
        for epoch in stream.plan.reshape(2, -1):
            assert sorted(epoch[epoch >= 0].tolist()) == rows
        assert stream.plan.shape == (4, 4)
        assert torch.equal(stream.tensors["soft_labels"][rows], fused["soft_labels"])
        assert job.parameters is state.parameters
        assert [(term.stream, term.objective, term.weight) for term in job.terms] == [("transfer", KD(), 1.0)]
        assert job.optimizer == settings.absorb.optimizer
    assert len({tuple(job.streams["transfer"].plan.flatten().tolist()) for job in runner.jobs}) == 5


def test_orders_depend_on_the_round_that_was_fused_and_on_the_seed(cohort, fused_soft_labels):
    clients, states, settings = cohort

    def plans(fused_round, settings):
        runner = Recorder()
        requests = [replace(fused_request(fused_soft_labels(), fused_round), round=9)] * 5
        soft_labels.absorb(clients, states, requests, settings, runner)
        return [tuple(job.streams["transfer"].plan.flatten().tolist()) for job in runner.jobs]

    assert plans(1, settings) == plans(1, settings)
    assert not set(plans(1, settings)) & set(plans(2, settings))
    assert not set(plans(1, settings)) & set(plans(1, replace(settings, seed=8)))


def test_an_empty_set_of_rows_teaches_nothing(cohort, fused_soft_labels):
    clients, states, settings = cohort
    taught = soft_labels.absorb(clients, states, [fused_request(fused_soft_labels([]))] * 5, settings, sequential.fit)
    for before, after in zip(states, taught, strict=True):
        assert all(torch.equal(tensor, before.parameters[name]) for name, tensor in after.parameters.items())


@pytest.mark.parametrize(("protectors", "kept"), [((), False), ((Noise(),), False), ((Swing(),), True)])
def test_the_reference_is_kept_only_where_a_protector_needs_it(cohort, fused_soft_labels, protectors, kept):
    clients, states, settings = cohort
    settings = replace(settings, protectors=protectors)
    states = [replace(state, received={"prototypes": {}}) for state in states]
    requests = [fused_request(fused_soft_labels(seed=seed)) for seed in range(5)]
    taught = soft_labels.absorb(clients, states, requests, settings, Recorder())
    for state, request in zip(taught, requests, strict=True):
        assert set(state.received) == ({"prototypes", "soft_labels"} if kept else {"prototypes"})
        if kept:
            reference = state.received["soft_labels"]["soft_labels"]
            assert torch.equal(reference, request.fused["soft_labels"]["soft_labels"])


def test_a_reference_is_uniform_where_nothing_was_fused(cohort, fused_soft_labels):
    clients, states, settings = cohort
    settings = replace(settings, protectors=(Swing(),))
    fused = fused_soft_labels([1, 7], dtype=torch.float32)
    taught = soft_labels.absorb(clients, states, [fused_request(fused)] * 5, settings, Recorder())
    reference = taught[0].received["soft_labels"]["soft_labels"]
    assert reference.dtype == torch.float64
    assert torch.equal(reference[[1, 7]], fused["soft_labels"].double())
    others = [row for row in range(10) if row not in (1, 7)]
    assert (reference[others] == 1 / 3).all()


@pytest.mark.parametrize(
    "fused",
    [
        {"soft_labels": certain(9)},
        {"soft_labels": certain()[:, :2]},
        {"soft_labels": certain(2), "rows": torch.tensor([1, 2, 3], dtype=torch.int32)},
        {"soft_labels": certain(2), "rows": torch.tensor([1, 10], dtype=torch.int32)},
        {"soft_labels": certain(2), "rows": torch.tensor([-1, 4], dtype=torch.int32)},
    ],
)
def test_fused_soft_labels_that_do_not_fit_the_transfer_set_are_refused(cohort, fused):
    clients, states, settings = cohort
    with pytest.raises(InvalidKnowledgeError, match="do not fit this client's transfer set"):
        soft_labels.absorb(clients, states, [fused_request(fused)] * 5, settings, Recorder())
