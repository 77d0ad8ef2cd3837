import math
import weakref
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from fedfuse.carriers import soft_labels
from fedfuse.client.client import Predictors, first_state
from fedfuse.client.fit import FitResult
from fedfuse.client.predict import predict
from fedfuse.client.rehearse import SHARE
from fedfuse.client.teach import teach
from fedfuse.configuration import CLOSED_FORM, OptimizerSettings, TrainingSettings
from fedfuse.encoding.uint8 import uint8
from fedfuse.engine import sequential, stacked
from fedfuse.knowledge import InvalidKnowledgeError, Knowledge
from fedfuse.messages import Request
from fedfuse.objectives.class_relation import ClassRelation
from fedfuse.objectives.cross_entropy import CrossEntropy
from fedfuse.objectives.dist import DIST
from fedfuse.objectives.kd import KD
from fedfuse.objectives.sum import Sum
from fedfuse.objectives.taid import TAID
from fedfuse.predictors.plain_head import PlainHead
from fedfuse.privacy.noise import Noise
from fedfuse.privacy.swing import Swing
from fedfuse.transfer.gap_mixture import GapMixture
from fedfuse.transfer.margin import Margin
from fedfuse.transfer.partial_mixup import PartialMixup
from fedfuse.transfer.where_better import WhereBetter

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


class Quarters:
    """A predictor that gives every class a quarter."""

    needs = frozenset()
    tells_labels = False

    def fit(self, own):
        return lambda outputs, inputs: torch.full_like(outputs.logits, 0.25)


def test_soft_labels_come_from_the_predictor_that_is_meant_for_others(cohort, share_request):
    clients, states, settings = cohort
    settings = replace(
        settings,
        predictors=Predictors(share=Quarters(), personal=PlainHead(), general=PlainHead()),
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
    # What all clients get is held once, in one tensor, until it is sent.
    assert (packed["soft_labels"] is values) == bool(mask.all())


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


def test_soft_labels_are_freed_as_they_are_stacked(expect):
    watched = []

    def sent():
        for _ in range(6):
            assert all(reference() is None for reference in watched[:-2])  # the last may still be at hand
            values = certain()
            watched.append(weakref.ref(values))
            yield {"soft_labels": values}

    stacked = soft_labels.stack(sent(), [expect() for _ in range(6)])
    assert torch.equal(stacked["soft_labels"], certain().expand(6, -1, -1))
    assert len(watched) == 6


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


@pytest.mark.parametrize("rows", [None, [1, 2, 6, 7, 8]])
def test_what_is_absorbed_is_what_was_quantised(cohort, fused_soft_labels, rows):
    clients, states, settings = cohort
    encoding = uint8(510, compressed=True)
    encoded = encoding.encode(fused_soft_labels(rows), 10)
    assert "soft_labels" not in encoded
    decoded = encoding.decode(encoded, 10, 3, torch.float64)
    settings = replace(settings, protectors=(Swing(),))
    expected = soft_labels.absorb(clients, states, [fused_request(decoded)] * 5, settings, sequential.fit)
    settings = replace(settings, encoding=encoding)
    taught = soft_labels.absorb(clients, states, [fused_request(encoded)] * 5, settings, sequential.fit)
    for one, other in zip(taught, expected, strict=True):
        assert all(torch.equal(tensor, other.parameters[name]) for name, tensor in one.parameters.items())
        for name, tensor in one.received["soft_labels"].items():
            assert torch.equal(tensor, other.received["soft_labels"][name])


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


# -- rehearsal ---------------------------------------------------------------------------------------------------------


def rehearsing(settings, rehearse, epochs=2, batch_size=4, momentum=0.5, **others):
    """Settings in which this share of the loss is that of the client's own labels while it absorbs."""
    training = TrainingSettings(epochs, batch_size, OptimizerSettings("sgd", lr=0.1, momentum=momentum))
    return replace(settings, **{"absorb": replace(training, rehearse=rehearse), "learn": training} | others)


def gradients(client, state, loss):
    """The gradients of a loss of the client's model, by the name of the parameter."""
    model = client.architecture.module().double()
    model.load_state_dict(state.parameters)
    loss(model).backward()
    return {name: own.grad for name, own in model.named_parameters()}


def same(parameters, others):
    return all(torch.equal(tensor, others[name]) for name, tensor in parameters.items())


@pytest.mark.parametrize("share", [0.25, 0.7])
def test_every_step_learns_from_fused_soft_labels_and_from_own_labels_by_their_shares(
    make_clients, make_settings, fused_soft_labels, share
):
    (client,) = make_clients(("small",), sizes=(16,))
    # One step, over all transfer samples.
    settings = rehearsing(make_settings(), share, epochs=1, batch_size=10, momentum=0, objective=KD(1.0))
    state, fused, runner = first_state(client, settings), fused_soft_labels(), Recorder()
    soft_labels.absorb([client], [state], [fused_request(fused)], settings, runner)
    ((*rows,),) = runner.jobs[0].streams["private"].plan.tolist()
    assert len(set(rows)) == 10
    train = client.data.train
    own = gradients(
        client, state, lambda model: functional.cross_entropy(model(train.inputs[rows]).logits, train.labels[rows])
    )
    others = gradients(
        client,
        state,
        lambda model: functional.kl_div(
            torch.log_softmax(model(settings.transfer.inputs).logits, 1), fused["soft_labels"], reduction="batchmean"
        ),
    )
    (after,) = soft_labels.absorb([client], [state], [fused_request(fused)], settings, sequential.fit)
    for name, before in state.parameters.items():
        expected = before - 0.1 * (share * own[name] + (1 - share) * others[name])
        torch.testing.assert_close(after.parameters[name], expected, rtol=0, atol=1e-12)
        assert (own[name] - others[name]).abs().max() > 1e-3


def test_transfer_samples_stay_in_their_order_and_own_samples_fill_as_many_steps(cohort, fused_soft_labels):
    clients, states, settings = cohort
    requests = [fused_request(fused_soft_labels([1, 2, 6, 7, 8]))] * 5
    plain, runner = Recorder(), Recorder()
    soft_labels.absorb(clients, states, requests, rehearsing(settings, 0), plain)
    learn = TrainingSettings(9, 3, OptimizerSettings("adam", lr=5.0))
    soft_labels.absorb(clients, states, requests, replace(rehearsing(settings, 0.25), learn=learn), runner)
    for client, job, without in zip(clients, runner.jobs, plain.jobs, strict=True):
        assert [(term.stream, term.objective, term.on_fused_head) for term in job.terms] == [
            ("transfer", KD(), True),
            ("private", CrossEntropy(), False),
        ]
        assert set(without.streams) == {"transfer"}
        assert without.streams["transfer"].constants == {}
        assert torch.equal(job.streams["transfer"].plan, without.streams["transfer"].plan)
        assert {name: stream.constants["scale"] for name, stream in job.streams.items()} == {
            "transfer": 0.75,
            "private": 0.25,
        }
        # The optimiser and the number of steps are those of absorb, the batches those of learn.
        assert job.optimizer == without.optimizer
        private, number = job.streams["private"], len(client.data.train)
        assert private.tensors == {"inputs": client.data.train.inputs, "labels": client.data.train.labels}
        assert private.plan.shape == (4, 3)
        assert len(set(private.plan.flatten()[:number].tolist())) == min(number, 12)


@pytest.mark.parametrize("fit", [sequential.fit, stacked.fit])
def test_with_no_rows_nothing_is_learnt_from_labels_either(cohort, fused_soft_labels, fit):
    clients, states, settings = cohort
    settings = rehearsing(settings, 0.5, lesson=(GapMixture(), Margin(), PartialMixup()))
    taught = soft_labels.absorb(clients, states, [fused_request(fused_soft_labels([]))] * 5, settings, fit)
    assert all(same(after.parameters, before.parameters) for before, after in zip(states, taught, strict=True))


@pytest.mark.parametrize("sizes", [(0, 1, 5, 40), (0, 0)])
@pytest.mark.parametrize(
    ("rehearse", "objective", "lesson"),
    [
        (0.4, KD(), ()),
        (0.4, TAID(num_steps=9), (GapMixture(), Margin())),
        (0.4, Sum([KD(), ClassRelation(), DIST()]), (PartialMixup(0.5),)),
        (CLOSED_FORM, KD(), (WhereBetter(),)),
    ],
)
def test_a_cohort_of_clients_absorbs_as_each_would_alone(
    make_clients, make_settings, fused_soft_labels, sizes, rehearse, objective, lesson
):
    clients = make_clients(("small",), sizes=sizes)
    settings = rehearsing(make_settings(), rehearse, objective=objective, lesson=lesson)
    states = [first_state(client, settings) for client in clients]
    if rehearse == CLOSED_FORM:
        # All for the labels, all for what was fused, and nothing known.
        shares = [{SHARE: torch.tensor(share, dtype=torch.float64)} for share in (0.0, 1.0)]
        remembered = [*shares, {}, {}][: len(clients)]
        states = [replace(state, objective_state=own) for state, own in zip(states, remembered, strict=True)]
    rows = [None, [3], [1, 2, 6, 7, 8], []]
    requests = [fused_request(fused_soft_labels(own, seed=seed)) for seed, own in enumerate(rows[: len(clients)])]
    together = soft_labels.absorb(clients, states, requests, settings, stacked.fit)
    for client, state, request, own in zip(clients, states, requests, together, strict=True):
        (alone,) = soft_labels.absorb([client], [state], [request], settings, sequential.fit)
        for name, tensor in alone.parameters.items():
            torch.testing.assert_close(own.parameters[name], tensor, rtol=0, atol=1e-12)
        assert set(own.objective_state) == set(alone.objective_state)
        for name, tensor in alone.objective_state.items():
            torch.testing.assert_close(own.objective_state[name], tensor, rtol=0, atol=1e-9)
        without_rows = len(request.fused["soft_labels"]["soft_labels"]) == 0
        all_for_no_labels = state.objective_state.get(SHARE) == 1 and len(client.data.train) == 0
        assert same(own.parameters, state.parameters) == (without_rows or all_for_no_labels)


@pytest.mark.parametrize("fit", [sequential.fit, stacked.fit])
def test_a_share_of_all_or_nothing_leaves_one_of_the_two_without_a_say(
    make_clients, make_settings, fused_soft_labels, fit
):
    clients = make_clients(("small",), sizes=(6, 6))
    settings = rehearsing(make_settings(), CLOSED_FORM)
    states = [
        replace(first_state(client, settings), objective_state={SHARE: torch.tensor(share, dtype=torch.float64)})
        for client, share in zip(clients, (0.0, 1.0), strict=True)
    ]
    absorbed = [
        soft_labels.absorb(clients, states, [fused_request(fused_soft_labels(seed=seed))] * 2, settings, fit)
        for seed in (0, 1)
    ]
    # Who heeds labels alone ends the same, whatever was fused.
    assert not same(absorbed[0][0].parameters, absorbed[1][0].parameters)
    assert same(absorbed[0][1].parameters, absorbed[1][1].parameters)
    (without,) = soft_labels.absorb(
        clients[:1], states[:1], [fused_request(fused_soft_labels())], rehearsing(settings, 0), sequential.fit
    )
    for name, tensor in without.parameters.items():
        torch.testing.assert_close(absorbed[0][0].parameters[name], tensor, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("learn_rehearses", "kept"), [(0.0, False), (0.3, True)])
def test_what_learn_rehearses_is_kept_with_its_rows_before_the_lesson(cohort, fused_soft_labels, learn_rehearses, kept):
    clients, states, settings = cohort
    learn = replace(settings.learn, rehearse=learn_rehearses)
    settings = replace(settings, learn=learn, lesson=(PartialMixup(1.0), WhereBetter()))
    fused = fused_soft_labels([1, 7, 9])
    taught = soft_labels.absorb(clients, states, [fused_request(fused)] * 5, settings, Recorder())
    for state in taught:
        assert set(state.received) == ({"soft_labels"} if kept else set())
        if kept:
            assert state.received["soft_labels"]["rows"].tolist() == [1, 7, 9]
            assert torch.equal(state.received["soft_labels"]["soft_labels"][[1, 7, 9]], fused["soft_labels"])


def test_who_catches_up_is_taught_the_same_beside_clients_of_another_round(cohort, fused_soft_labels):
    clients, states, settings = cohort
    settings = replace(settings, lesson=(PartialMixup(1.0),))
    requests = [replace(fused_request(fused_soft_labels()), fused_round=row + 1) for row in range(5)]
    together, alone = Recorder(), Recorder()
    soft_labels.absorb(clients, states, requests, settings, together)
    for client, state, request, one in zip(clients, states, requests, together.jobs, strict=True):
        soft_labels.absorb([client], [state], [request], settings, alone)
        (other,) = alone.jobs
        assert torch.equal(one.streams["transfer"].tensors["inputs"], other.streams["transfer"].tensors["inputs"])
        assert torch.equal(one.streams["transfer"].plan, other.streams["transfer"].plan)


def test_a_lesson_is_what_is_visited(cohort, fused_soft_labels):
    clients, states, settings = cohort
    settings, runner = replace(settings, lesson=(WhereBetter(), Margin())), Recorder()
    # So unsure that some clients are surer of some samples.
    fused = {"soft_labels": 0.2 * fused_soft_labels()["soft_labels"] + 0.8 / 3}
    soft_labels.absorb(clients, states, [fused_request(fused)] * 5, settings, runner)
    lessons = teach(clients, states, [(fused["soft_labels"], torch.arange(10))] * 5, "absorb", [1] * 5, settings)
    assert len({tuple(one.lesson.rows.tolist()) for one in lessons}) > 1
    for job, taught in zip(runner.jobs, lessons, strict=True):
        stream, rows = job.streams["transfer"], taught.lesson.rows
        assert torch.equal(stream.tensors["weights"], taught.lesson.weights)
        visited = stream.plan[stream.plan >= 0]
        assert sorted(visited.tolist()) == sorted(2 * rows.tolist())


def test_what_a_lesson_remembers_stays_beside_all_other_memory(make_clients, make_settings, fused_soft_labels):
    (client,), settings = make_clients(("small",), sizes=(5,)), make_settings(lesson=(Margin(), GapMixture()))
    remembered = {"private.0.mean": torch.tensor(2.0), "transfer.0.t": torch.tensor(0.5)}
    state = replace(first_state(client, settings), objective_state=remembered)
    fused, runner = fused_soft_labels(), Recorder()
    (taught,) = teach([client], [state], [(fused["soft_labels"], torch.arange(10))], "absorb", [1], settings)
    (after,) = soft_labels.absorb([client], [state], [fused_request(fused)], settings, runner)
    mixture = after.objective_state["lesson.1.mixture"]
    assert torch.equal(mixture, taught.memory["lesson.1.mixture"])
    assert runner.jobs[0].objective_state == remembered | {"lesson.1.mixture": mixture}
    assert after.objective_state == runner.jobs[0].objective_state
