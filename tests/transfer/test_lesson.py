import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from states import states_in

from fedfuse import catalogue, composition, results
from fedfuse.checkpoint import CLIENTS, FOLDER
from fedfuse.client.absorb import absorb
from fedfuse.client.client import first_state
from fedfuse.components import build
from fedfuse.configuration import Component
from fedfuse.data.federation import TransferSet
from fedfuse.engine import sequential, stacked
from fedfuse.messages import Request
from fedfuse.simulate import resume, simulate
from fedfuse.transfer.lesson import Lesson

NUM_SAMPLES, NUM_CLASSES = 40, 4
ROWS = {
    "none": [],
    "one": [7],
    "two": [0, 39],
    "repeated": [3, 3, 3, 8, 8, 20],
    "some": list(range(0, 40, 3)),
    "all": list(range(40)),
}


def shipped(name):
    values = catalogue.read("transfer/lesson", name, catalogue.folders())
    return build(Component(name, values.pop("_target_"), values), "transfer lesson")


@pytest.fixture(params=catalogue.names("transfer/lesson", catalogue.folders()))
def step(request):
    """Every step of a lesson that is shipped, as its file configures it."""
    return shipped(request.param)


@pytest.fixture(params=ROWS.values(), ids=ROWS)
def lesson(request):
    return make_lesson(request.param)


def make_lesson(rows, dtype=torch.float64, pixels=False):
    generator = torch.Generator().manual_seed(0)
    numbers = torch.rand(NUM_SAMPLES, 1, 3, 3, generator=generator, dtype=torch.float64)
    soft_labels, own = torch.softmax(2 * torch.randn(2, NUM_SAMPLES, NUM_CLASSES, generator=generator), 2).to(dtype)
    inputs = (255 * numbers).to(torch.uint8) if pixels else numbers.to(dtype)
    domains = torch.eye(2, dtype=dtype)[torch.arange(NUM_SAMPLES) % 2]
    return Lesson(inputs, soft_labels, torch.tensor(rows, dtype=torch.int64), own, domains=domains)


def taught(step, lesson, state=None, round=1, seed=0):
    state = step.initial_state(NUM_CLASSES) if state is None else state
    return step(lesson, state, round, np.random.default_rng(seed))


def assert_same(first, second):
    for name, value in vars(first).items():
        other = getattr(second, name)
        assert other is None if value is None else torch.equal(other, value)


def test_every_shipped_step_is_tested():
    assert set(catalogue.names("transfer/lesson", catalogue.folders())) >= {
        "margin",
        "combined_confidence",
        "gap_mixture",
        "partial_mixup",
        "hard_mining",
        "where_better",
    }


def test_rows_are_of_those_that_came_and_some_are_left(step, lesson):
    rows = taught(step, lesson)[0].rows
    assert rows.dtype == torch.int64
    assert rows.ndim == 1
    assert set(rows.tolist()) <= set(lesson.rows.tolist())
    assert min(1, len(lesson.rows)) <= len(rows) <= len(lesson.rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_labels_and_answers_stay_on_the_simplex_and_shapes_and_types_as_they_were(step, dtype):
    before = make_lesson(ROWS["some"], dtype)
    after, _ = taught(step, before)
    for own, others in ((after.soft_labels, before.soft_labels), (after.own, before.own)):
        assert own.shape == others.shape
        assert own.dtype == dtype
        assert own.min() >= 0
        torch.testing.assert_close(own.sum(1), torch.ones(NUM_SAMPLES, dtype=dtype), rtol=0, atol=1e-6)
    domains = after.domains
    assert domains.shape == (NUM_SAMPLES, 2)
    assert domains.dtype == dtype
    assert domains.min() >= 0
    torch.testing.assert_close(domains.sum(1), torch.ones(NUM_SAMPLES, dtype=dtype), rtol=0, atol=1e-6)
    assert after.inputs.shape == before.inputs.shape
    assert after.inputs.dtype == dtype


def test_weights_are_not_negative_and_belong_to_steps_that_weigh(step, lesson):
    weights = taught(step, lesson)[0].weights
    assert (weights is not None) is step.weighs
    if step.weighs:
        assert weights.shape == (NUM_SAMPLES,)
        assert weights.isfinite().all()
        assert weights.min() >= 0


def test_samples_are_the_transfer_sets_own_unless_a_step_says_that_it_changes_them(step, lesson):
    assert (taught(step, lesson)[0].inputs is lesson.inputs) is not step.changes_inputs


def test_answers_of_the_client_are_needed_only_by_steps_that_say_so(step, lesson):
    without = replace(lesson, own=None)
    if step.needs_own:
        # Answers that say something else must matter.
        other = replace(make_lesson(ROWS["all"]), own=make_lesson(ROWS["all"]).own.flip(0))
        chosen = [taught(step, own)[0].rows for own in (make_lesson(ROWS["all"]), other)]
        assert not torch.equal(*chosen)
    else:
        after, _ = taught(step, without)
        assert after.own is None
        assert_same(replace(taught(step, lesson)[0], own=None), after)


def test_domains_are_needed_only_by_steps_that_say_so(step, lesson):
    assert step.needs_domains is False
    after, _ = taught(step, replace(lesson, domains=None))
    assert after.domains is None
    assert_same(replace(taught(step, lesson)[0], domains=None), after)


@pytest.mark.parametrize("pixels", [False, True])
def test_what_came_in_is_left_as_it_was(step, pixels):
    before, state = make_lesson(ROWS["all"], pixels=pixels), step.initial_state(NUM_CLASSES)
    taught(step, before, state)
    assert_same(before, make_lesson(ROWS["all"], pixels=pixels))
    assert all(torch.equal(state[name], value) for name, value in step.initial_state(NUM_CLASSES).items())


def test_the_same_stream_gives_the_same_lesson(step, lesson):
    (first, memory), (second, other) = taught(step, lesson, seed=3), taught(step, lesson, seed=3)
    assert_same(first, second)
    assert all(torch.equal(other[name], value) for name, value in memory.items())


def test_what_is_remembered_keeps_its_names_shapes_and_types(step, lesson):
    first = step.initial_state(NUM_CLASSES)
    _, state = taught(step, lesson)
    _, state = taught(step, lesson, state, round=2)
    assert set(state) == set(first)
    for name, value in first.items():
        assert state[name].shape == value.shape
        assert state[name].dtype == value.dtype
        assert state[name].isfinite().all()


def test_rows_that_are_not_learnt_from_do_not_matter(step):
    rows = ROWS["some"]
    others = torch.ones(NUM_SAMPLES, dtype=torch.bool)
    others[rows] = False
    plain = make_lesson(rows)
    changed = make_lesson(rows)
    for tensor in (changed.inputs, changed.soft_labels, changed.own):
        tensor[others] = tensor[others].flip(1)
    (first, memory), (second, other) = taught(step, plain), taught(step, changed)
    assert torch.equal(first.rows, second.rows)
    for name in ("inputs", "soft_labels", "own", "weights"):
        if getattr(first, name) is not None:
            assert torch.equal(getattr(first, name)[rows], getattr(second, name)[rows])
    assert all(torch.equal(other[name], value) for name, value in memory.items())


# -- with the runners --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pixels", [False, True])
def test_both_runners_teach_a_cohort_of_whom_some_have_few_rows_or_none(
    step, make_clients, make_settings, fused_soft_labels, pixels
):
    settings = make_settings(lesson=(step,))
    if pixels:
        settings = replace(settings, transfer=TransferSet((40 * settings.transfer.inputs.abs()).to(torch.uint8)))
    clients = make_clients(("small",))
    states = [first_state(client, settings) for client in clients]
    fused = [fused_soft_labels(rows, seed) for seed, rows in enumerate([[], [4], [0, 9], [1, 2, 3, 5, 8], None])]
    requests = [Request(round=1, fused={"soft_labels": own}, fused_round=1) for own in fused]
    one_by_one, together = (absorb(clients, states, requests, settings, fit) for fit in (sequential.fit, stacked.fit))
    for first, second, before in zip(one_by_one, together, states, strict=True):
        for name, tensor in first.parameters.items():
            torch.testing.assert_close(second.parameters[name], tensor, rtol=0, atol=1e-12)
        learnt = any(not torch.equal(before.parameters[name], tensor) for name, tensor in first.parameters.items())
        assert learnt is (first is not one_by_one[0])


BASE = ["num_clients=4", "strategy=fedmd", "transfer.size=60", "transfer/policy=pcoreset", "transfer.policy.budget=30"]
BASE += ["transfer.lesson=[gap_mixture,margin,{name: partial_mixup, fraction: 0.3}]", "engine.precision=float64"]
BASE += ["model=[mlp_small]", "learn.epochs=1", "absorb.epochs=1", "local_baseline=false"]


def run(directory, *overrides):
    return simulate(composition.compose([*BASE, *overrides]), directory)


def states_of(directory):
    """The newest state of each client that a run leaves behind."""
    clients = states_in(directory / FOLDER / CLIENTS, range(4))
    return {client: generations[-1][2] for client, generations in clients.items()}


def numbers_of(directory):
    return [
        {name: value for name, value in line.items() if name != "seconds"} for line in results.read_metrics(directory)
    ]


@pytest.fixture
def quick(monkeypatch):
    """Wait for no disk, and draw nothing."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
    monkeypatch.setattr("fedfuse.conclusion.draw_figures", lambda directory, summary: [])
    monkeypatch.setattr("fedfuse.conclusion.write_report", lambda directory: directory)


@pytest.mark.usefixtures("quick")
def test_a_run_with_three_steps_is_the_same_with_both_runners(tmp_path):
    one_by_one, together = (
        states_of(run(tmp_path / runner, "num_rounds=2", f"engine.runner={runner}"))
        for runner in ("sequential", "stacked")
    )
    plain = states_of(run(tmp_path / "plain", "num_rounds=2", "transfer.lesson=[]"))
    assert len(one_by_one) == 4
    for client, first in one_by_one.items():
        for kind in ("parameters", "objective_state"):
            assert set(first[kind]) == set(together[client][kind])
            for name, tensor in first[kind].items():
                torch.testing.assert_close(together[client][kind][name], tensor, rtol=0, atol=1e-9)
        assert any(
            (plain[client]["parameters"][name] - tensor).abs().max() > 1e-4
            for name, tensor in first["parameters"].items()
        )


@pytest.mark.usefixtures("quick")
def test_what_a_step_remembers_survives_a_resume(tmp_path):
    whole = run(tmp_path / "whole", "num_rounds=3")
    parts = run(tmp_path / "parts", "num_rounds=1")
    remembered = {client: state["objective_state"]["lesson.0.mixture"] for client, state in states_of(parts).items()}
    resume(parts, num_rounds=3)
    assert numbers_of(parts) == numbers_of(whole)
    for client, state in states_of(whole).items():
        resumed = states_of(parts)[client]
        for kind in ("parameters", "objective_state"):
            assert all(torch.equal(resumed[kind][name], tensor) for name, tensor in state[kind].items())
        mixture = state["objective_state"]["lesson.0.mixture"]
        assert mixture.sum().item() == pytest.approx(1)
        assert not torch.equal(mixture, remembered[client])
    assert len({tuple(mixture.tolist()) for mixture in remembered.values()}) == 4
