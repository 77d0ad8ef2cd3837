import math
from dataclasses import replace

import pytest
import torch

from fedfuse.carriers import relations, soft_labels
from fedfuse.carriers.relations import relative_distances
from fedfuse.client.absorb import absorb
from fedfuse.client.client import first_state
from fedfuse.client.fit import FitResult
from fedfuse.client.predict import predict
from fedfuse.configuration import OptimizerSettings, TrainingSettings
from fedfuse.engine import sequential, stacked
from fedfuse.knowledge import InvalidKnowledgeError, KnowledgeBatch
from fedfuse.messages import Request
from fedfuse.objectives.kd import KD
from fedfuse.objectives.rkd import RKD
from fedfuse.objectives.sum import Sum

NUM_TRANSFER, NUM_PAIRS = 10, 45
SUBSET = torch.tensor([0, 3, 9])


@pytest.fixture
def cohort(make_clients, make_settings):
    clients, settings = make_clients(("small",)), make_settings()
    return clients, [first_state(client, settings) for client in clients], settings


@pytest.fixture
def expect(make_clients, make_expectation):
    client = make_clients()[0]
    return lambda rows=None: make_expectation(client, rows=rows)


def fused_request(tensors):
    return Request(round=1, fused={"relations": tensors}, fused_round=1)


# -- express -----------------------------------------------------------------------------------------------------------


def test_distances_are_relative_to_their_mean_in_the_order_of_the_upper_triangle():
    features = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    assert relative_distances(features).tolist() == [0.75, 1.0, 1.25]
    line = torch.tensor([[0.0], [1.0], [3.0], [6.0]])
    assert relative_distances(line).tolist() == pytest.approx([d / (20 / 6) for d in (1, 3, 6, 2, 5, 3)])


def test_distances_of_zero_do_not_count_in_the_mean():
    assert relative_distances(torch.tensor([[5.0], [5.0], [7.0]])).tolist() == [0, 1, 1]
    assert relative_distances(torch.full((3, 2), 5.0)).tolist() == [0, 0, 0]
    assert relative_distances(torch.ones(1, 2)).shape == (0,)


def test_distances_of_close_and_of_large_features_are_exact_in_float32():
    near = torch.tensor([[1000.0], [1000.001], [1000.003]])
    exact = near.double()
    between = [(exact[j] - exact[i]).item() for i, j in ((0, 1), (0, 2), (1, 2))]
    expected = [3 * one / sum(between) for one in between]
    assert relative_distances(near).tolist() == pytest.approx(expected, rel=1e-9)
    first, second, *_ = relative_distances(near.repeat(10, 1)).tolist()
    assert second / first == pytest.approx(between[1] / between[0], rel=1e-9)
    assert relative_distances(1e30 * torch.tensor([[0.0], [1.0], [2.0]])).tolist() == pytest.approx([0.75, 1.5, 0.75])


@pytest.mark.parametrize("rows", [torch.arange(NUM_TRANSFER), SUBSET, torch.tensor([4])])
def test_relations_are_the_distances_of_the_features_of_what_was_asked_for(cohort, share_request, rows):
    clients, states, settings = cohort
    expressed = relations.express(clients, states, [share_request(rows=rows)] * 5, settings)
    for client, state, own in zip(clients, states, expressed, strict=True):
        features = predict(client.architecture, [state.parameters], [settings.transfer.inputs])[0].features[rows]
        assert set(own) == {"relations", "rows"}
        assert own["rows"].dtype == torch.int32
        assert own["rows"].tolist() == rows.tolist()
        pairs = [(i, j) for i in range(len(rows)) for j in range(i + 1, len(rows))]
        distances = torch.tensor([(features[i] - features[j]).norm() for i, j in pairs], dtype=torch.float64)
        # Features of 0 where all units are silent are the same.
        mean = distances[distances > 0].mean()
        torch.testing.assert_close(own["relations"], distances / mean, rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_sent_has_the_precision_of_the_run_and_passes_the_check(
    make_clients, make_settings, make_expectation, share_request, dtype
):
    clients, settings = make_clients(("small",), dtype=dtype), make_settings(dtype)
    states = [first_state(client, settings) for client in clients]
    for client, own in zip(clients, relations.express(clients, states, [share_request()] * 5, settings), strict=True):
        assert own["relations"].dtype == dtype
        relations.check(own, make_expectation(client))


def test_relations_cannot_be_asked_for_without_rows(cohort):
    clients, states, settings = cohort
    with pytest.raises(InvalidKnowledgeError, match="without saying on which rows"):
        relations.express(clients, states, [Request(round=1, sends=("relations",))] * 5, settings)


# -- check -------------------------------------------------------------------------------------------------------------


def valid(number=NUM_TRANSFER, **changes):
    rows = torch.arange(number, dtype=torch.int32)
    return {"relations": torch.ones(number * (number - 1) // 2), "rows": rows} | changes


def test_relations_on_the_rows_that_were_asked_for_are_accepted(expect):
    relations.check(valid(), expect())
    relations.check(valid(relations=torch.ones(NUM_PAIRS).double()), expect())
    relations.check(valid(relations=torch.zeros(NUM_PAIRS)), expect())
    relations.check(valid(3, rows=SUBSET.to(torch.int32)), expect(SUBSET))
    relations.check(valid(1, rows=torch.tensor([7])), expect(torch.tensor([7])))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "came as"),
        ({"relations": torch.ones(NUM_PAIRS)}, "came as"),
        (valid(mask=torch.ones(10)), "came as"),
        (valid(relations=torch.ones(44)), r"shape \[44\], expected \[45\]"),
        (valid(relations=torch.ones(10, 10)), r"shape \[10, 10\]"),
        (valid(relations=torch.ones(NUM_PAIRS, 1)), r"shape \[45, 1\]"),
        (valid(relations=torch.ones(NUM_PAIRS).half()), r"type torch\.float16"),
        (valid(relations=torch.ones(NUM_PAIRS).long()), r"type torch\.int64"),
        (valid(rows=torch.arange(1, 11)), "other transfer rows"),
        (valid(rows=torch.arange(9)), "other transfer rows"),
        (valid(rows=torch.arange(9, -1, -1)), "other transfer rows"),
        (valid(relations=torch.cat([torch.ones(44), torch.tensor([-1e-6])])), "negative"),
        (valid(relations=torch.full((NUM_PAIRS,), 1.0011)), "not relative to their mean"),
        (valid(relations=torch.cat([torch.ones(44), torch.tensor([1e12])])), "not relative to their mean"),
    ],
)
def test_what_is_no_triangle_of_relative_distances_is_refused(expect, tensors, message):
    with pytest.raises(InvalidKnowledgeError, match=message):
        relations.check(tensors, expect())


# -- stack -------------------------------------------------------------------------------------------------------------


def test_stacking_puts_every_pair_in_its_place():
    rows = [torch.tensor([1, 4, 6]), torch.tensor([4, 8]), torch.tensor([6])]
    tensors = [
        {"relations": torch.tensor(own), "rows": known}
        for own, known in zip(([1.4, 1.6, 4.6], [4.8], []), rows, strict=True)
    ]
    stacked = relations.stack(tensors, [_expectation(own) for own in rows])
    # Anybody answered 1, 4, 6 and 8.
    assert stacked["relations"].dtype == torch.float32
    assert stacked["relations"].tolist() == [
        pytest.approx(own) for own in ([1.4, 1.6, 0, 4.6, 0, 0], [0, 0, 0, 0, 4.8, 0], [0] * 6)
    ]
    assert [own.nonzero().flatten().tolist() for own in stacked["mask"]] == [[1, 4, 6], [4, 8], [6]]
    assert stacked["mask"].shape == (3, NUM_TRANSFER)
    batch = KnowledgeBatch((0, 1, 2), 1, {"relations": stacked})
    assert torch.equal(batch.related, stacked["relations"] > 0)


def _expectation(rows):
    class Expected:
        num_transfer = NUM_TRANSFER

    expected = Expected()
    expected.rows = rows
    return expected


def test_stacking_what_all_were_asked_for_changes_nothing(expect):
    sent = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    stacked = relations.stack([valid(3, relations=own) for own in sent], [expect(SUBSET)] * 4)
    assert torch.equal(stacked["relations"], sent)


# -- absorb ------------------------------------------------------------------------------------------------------------


def test_absorbing_keeps_the_distances_of_every_sample_from_the_related_ones(cohort):
    clients, states, settings = cohort
    states = [replace(state, received={"prototypes": {}}) for state in states]
    fused = {"relations": torch.tensor([0.5, 1.0, 1.5]), "rows": SUBSET.to(torch.int32)}
    for before, after in zip(
        states, relations.absorb(clients, states, [fused_request(fused)] * 5, settings, None), strict=True
    ):
        assert after.parameters is before.parameters
        assert set(after.received) == {"prototypes", "relations"}
        kept = after.received["relations"]
        assert kept["relations"].dtype == torch.float64
        assert kept["relations"].shape == (NUM_TRANSFER, 3)
        assert kept["relations"][SUBSET].tolist() == [[0, 0.5, 1], [0.5, 0, 1.5], [1, 1.5, 0]]
        assert kept["known"].nonzero().flatten().tolist() == SUBSET.tolist()
        assert kept["positions"][SUBSET].tolist() == [0, 1, 2]
        # What is none of them is marked, and must be some number in range.
        assert ((kept["positions"] >= 0) & (kept["positions"] < 3)).all()


def test_clients_that_receive_the_same_hold_it_once_and_others_their_own(cohort):
    clients, states, settings = cohort
    first, second = ({"relations": torch.full((3,), one), "rows": SUBSET.to(torch.int32)} for one in (1.0, 0.5))
    copies = [first, {name: tensor.clone() for name, tensor in first.items()}, second, second, first]
    kept = [
        state.received["relations"]["relations"]
        for state in relations.absorb(clients, states, [fused_request(own) for own in copies], settings, None)
    ]
    assert kept[0] is kept[1]
    assert kept[2] is kept[3]
    assert [own[0, 1].item() for own in kept] == [1, 1, 0.5, 0.5, 1]


def test_the_same_distances_of_other_samples_are_not_taken_for_the_same(cohort):
    clients, states, settings = cohort
    requests = [
        fused_request({"relations": torch.ones(3), "rows": torch.tensor([0, 3, last], dtype=torch.int32)})
        for last in range(4, 9)
    ]
    kept = relations.absorb(clients, states, requests, settings, None)
    known = [state.received["relations"]["known"].nonzero().flatten().tolist() for state in kept]
    assert known == [[0, 3, last] for last in range(4, 9)]


@pytest.mark.parametrize("number", [0, 1])
def test_one_sample_or_none_is_related_to_nothing(cohort, number):
    clients, states, settings = cohort
    fused = {"relations": torch.empty(0), "rows": torch.arange(number, dtype=torch.int32)}
    kept = relations.absorb(clients, states, [fused_request(fused)] * 5, settings, None)[0].received["relations"]
    assert kept["relations"].tolist() == [[0.0] * number] * NUM_TRANSFER
    assert kept["known"].sum() == number


@pytest.mark.parametrize(
    ("number", "rows"),
    [(2, [0, 3, 9]), (3, [0, 3, 10]), (3, [-1, 3, 9]), (3, [0, 3]), (3, [[0, 3, 9]])],
)
def test_fused_relations_that_do_not_fit_the_transfer_set_are_refused(cohort, number, rows):
    clients, states, settings = cohort
    fused = {"relations": torch.ones(number), "rows": torch.tensor(rows, dtype=torch.int32)}
    with pytest.raises(InvalidKnowledgeError, match="do not fit this client's transfer set"):
        relations.absorb(clients, states, [fused_request(fused)] * 5, settings, None)


def test_a_number_for_each_pair_travels():
    own = valid(300)
    assert own["relations"].numel() * 4 == pytest.approx(180_000, rel=0.01)
    assert math.isclose(valid(1000)["relations"].numel() * 4, 2e6, rel_tol=0.01)


# -- learning from them ------------------------------------------------------------------------------------------------

BOTH = Sum([KD(), RKD()], [1.0, 0.02])


def absorb_both(cohort, objective, fit, rows=None):
    """Absorb relations and soft labels, as a client does with what one round brought."""
    clients, states, settings = cohort
    settings = replace(settings, objective=objective)
    known = torch.arange(NUM_TRANSFER) if rows is None else torch.tensor(rows)
    points = torch.randn(len(known), 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.softmax(points, 1)
    fused = {
        "relations": {"relations": relative_distances(points), "rows": known.to(torch.int32)},
        "soft_labels": soft_labels.pack(labels, known, NUM_TRANSFER),
    }
    requests = [Request(round=1, fused=fused, fused_round=1)] * len(clients)
    return absorb(clients, states, requests, settings, fit), points, settings


@pytest.mark.parametrize(("objective", "needed"), [(BOTH, True), (RKD(), True), (KD(), False)])
def test_the_stream_of_soft_labels_has_the_relations_where_the_objective_needs_them(cohort, objective, needed):
    jobs = []

    def record(given):
        jobs.extend(given)
        return [FitResult(job.parameters, {}) for job in given]

    states, _, _ = absorb_both(cohort, objective, record, [0, 3, 4, 9])
    for job, state in zip(jobs, states, strict=True):
        stream, kept = job.streams["transfer"], state.received["relations"]
        names = {"relations": "relations", "positions": "positions", "relations_known": "known"}
        assert {name for name in names if name in stream.tensors} == (set(names) if needed else set())
        assert all(stream.tensors[name] is kept[names[name]] for name in names if needed)


@pytest.mark.parametrize("rows", [None, [0, 3, 4, 8, 9]])
def test_absorbing_brings_a_model_to_see_samples_as_far_apart_as_the_others_do(cohort, rows):
    clients, before, settings = cohort
    training = TrainingSettings(60, 10, OptimizerSettings("adam", lr=0.02))
    after, points, settings = absorb_both(
        (clients, before, replace(settings, absorb=training)), RKD(), stacked.fit, rows
    )
    target = relative_distances(points)
    inputs = settings.transfer.inputs if rows is None else settings.transfer.inputs[rows]
    for client, first, last in zip(clients, before, after, strict=True):
        outputs = predict(client.architecture, [first.parameters, last.parameters], [inputs] * 2)
        errors = [(relative_distances(own.features) - target).square().mean() for own in outputs]
        assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("rows", [None, [0, 3, 4, 8, 9]])
def test_both_runners_learn_the_same(cohort, rows):
    one_by_one, _, _ = absorb_both(cohort, BOTH, sequential.fit, rows)
    together, _, _ = absorb_both(cohort, BOTH, stacked.fit, rows)
    without, _, _ = absorb_both(cohort, KD(), sequential.fit, rows)
    for first, second, other in zip(one_by_one, together, without, strict=True):
        for name, tensor in first.parameters.items():
            torch.testing.assert_close(second.parameters[name], tensor, rtol=0, atol=1e-10)
        assert any((other.parameters[name] - first.parameters[name]).abs().max() > 1e-4 for name in first.parameters)
