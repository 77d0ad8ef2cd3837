import functools
import itertools
import math
import os
from dataclasses import replace

import pytest
import torch
from states import states_in
from torch.nn import functional

from fedfuse import composition, results
from fedfuse.checkpoint import CLIENTS, FOLDER
from fedfuse.client.fit import FitJob, Stream, Term, batch_plan
from fedfuse.configuration import OptimizerSettings
from fedfuse.engine import sequential, stacked
from fedfuse.models.outputs import Outputs
from fedfuse.objectives.kd import KD
from fedfuse.objectives.taid import TAID
from fedfuse.simulate import resume, simulate

BATCH, CLASSES = 6, 4
EVERY = torch.ones(BATCH, dtype=torch.bool)


def random(*shape, seed=0):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def soft_labels_of(seed, rows=BATCH):
    return torch.softmax(random(rows, CLASSES, seed=seed), dim=1)


def step(objective, logits, soft_labels, state=None, mask=None):
    outputs = Outputs(logits, torch.full((len(logits), 2), math.nan))
    mask = torch.ones(len(logits), dtype=torch.bool) if mask is None else mask
    return objective(outputs, {"soft_labels": soft_labels}, mask, state or objective.initial_state())


def at(t, **others):
    """A memory in which some steps were done already."""
    known = {"t": t, "momentum": 0.0, "previous_loss": 1.0} | others
    steps = torch.tensor(known.pop("steps", 1))
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in known.items()} | {"steps": steps}


def numbers(state):
    return {name: value.item() for name, value in state.items()}


# -- the loss ----------------------------------------------------------------------------------------------------------


def test_cross_entropy_with_the_target_between_in_numbers():
    # Logits 0 and ln 9, soft labels one half each: half way, the target's logits differ by ln 3.
    logits = torch.tensor([[0.0, math.log(9)]], dtype=torch.float64)
    losses, _ = step(TAID(start=0.5), logits, torch.full((1, 2), 0.5, dtype=torch.float64))
    assert losses.tolist() == pytest.approx([-(0.25 * math.log(0.1) + 0.75 * math.log(0.9))], rel=1e-14)


def test_at_the_end_the_gradient_is_that_of_kd_and_the_loss_the_cross_entropy_with_the_soft_labels():
    logits, soft_labels = random(BATCH, CLASSES), soft_labels_of(1)
    losses, _ = step(TAID(start=1.0), logits.requires_grad_(), soft_labels)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    (expected,) = torch.autograd.grad(step(KD(), logits, soft_labels, {"": EVERY})[0].sum(), logits)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-14)
    cross_entropy = functional.cross_entropy(logits, soft_labels, reduction="none")
    torch.testing.assert_close(losses, cross_entropy, rtol=1e-12, atol=0)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.8])
def test_on_the_way_the_gradient_is_the_difference_from_the_target_which_stays_where_it_is(t):
    logits, soft_labels = random(BATCH, CLASSES).requires_grad_(), soft_labels_of(1)
    losses, _ = step(TAID(start=t), logits, soft_labels)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    between = logits.detach().softmax(1) ** (1 - t) * soft_labels**t
    expected = logits.detach().softmax(1) - between / between.sum(1, keepdim=True)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-14)
    assert (t == 0) == (gradient.abs().max() < 1e-14)


def test_gradient_agrees_with_finite_differences_where_the_target_is_the_soft_label():
    soft_labels = soft_labels_of(1, 3)
    logits = random(3, CLASSES).requires_grad_()
    assert torch.autograd.gradcheck(lambda given: step(TAID(start=1.0), given, soft_labels)[0], (logits,))


def test_the_loss_goes_by_the_t_that_is_remembered():
    logits, soft_labels = random(BATCH, CLASSES), soft_labels_of(1)
    remembered, _ = step(TAID(start=0.1), logits, soft_labels, at(0.7))
    torch.testing.assert_close(remembered, step(TAID(start=0.7), logits, soft_labels)[0], rtol=0, atol=0)


def test_hard_soft_labels_give_finite_losses_and_gradients():
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    losses, state = step(TAID(), logits, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert torch.isfinite(logits.grad).all()
    assert all(torch.isfinite(value) for value in state.values())


# -- its memory --------------------------------------------------------------------------------------------------------


def test_the_first_step_only_remembers_its_loss():
    objective = TAID(start=0.2, num_steps=4)
    losses, state = step(objective, random(BATCH, CLASSES), soft_labels_of(1))
    expected = {"t": 0.2, "momentum": 0, "previous_loss": losses.mean().item(), "steps": 1}
    assert numbers(state) == pytest.approx(expected, rel=1e-14)


def test_the_next_step_follows_the_fall_of_the_loss_in_numbers():
    objective = TAID(start=0.2, alpha=0.5, beta=0.9, num_steps=1000)
    before = at(0.4, momentum=0.25, previous_loss=2.0, steps=5)
    losses, state = step(objective, random(BATCH, CLASSES), soft_labels_of(1), before)
    loss = losses.mean().item()
    momentum = 0.9 * 0.25 + 0.1 * (2 - loss) / 2
    t = 0.4 + 0.5 * 0.6 / (1 + math.exp(-momentum))
    expected = {"t": t, "momentum": momentum, "previous_loss": loss, "steps": 6}
    assert numbers(state) == pytest.approx(expected, rel=1e-12)


def test_t_never_stays_below_the_line_and_ends_at_its_end():
    objective, ts, state = TAID(start=0.4, end=0.9, alpha=0, num_steps=5), [], None
    for number in range(8):
        _, state = step(objective, random(BATCH, CLASSES, seed=number), soft_labels_of(1), state)
        ts.append(state["t"].item())
    assert ts == pytest.approx([0.4, 0.6, 0.7, 0.8, 0.9, 0.9, 0.9, 0.9])
    _, state = step(TAID(end=0.9, alpha=10), random(BATCH, CLASSES), soft_labels_of(1), at(0.5))
    assert state["t"] == 0.9


def test_t_never_falls_whatever_the_loss_does():
    objective, state, ts = TAID(start=0.1, alpha=0.02, beta=0.5, num_steps=10_000), None, [0.1]
    for number in range(40):
        logits = random(BATCH, CLASSES, seed=number) * 3 ** (number % 3 - 1)
        _, state = step(objective, logits, soft_labels_of(1), state)
        ts.append(state["t"].item())
    assert all(after >= before for before, after in itertools.pairwise(ts))
    assert ts[-1] > 0.11


def test_t_grows_faster_where_the_loss_fell():
    logits, soft_labels = random(BATCH, CLASSES), soft_labels_of(1)
    after = [
        step(TAID(alpha=0.1, beta=0.5, start=0.1), logits, soft_labels, at(0.4, previous_loss=before))[1]["t"].item()
        for before in (0.5, 1.0, 2.0, 4.0)
    ]
    assert after == sorted(set(after))


def test_padding_does_not_enter_the_memory():
    mask = torch.tensor([True, False, True, True, False, False])
    logits, soft_labels, before = random(BATCH, CLASSES), soft_labels_of(1), at(0.5)
    _, state = step(TAID(alpha=0.1), logits, soft_labels, before, mask)
    _, expected = step(TAID(alpha=0.1), logits[mask], soft_labels[mask], before)
    assert numbers(state) == pytest.approx(numbers(expected), rel=1e-14)
    logits[~mask] = math.inf
    assert numbers(step(TAID(alpha=0.1), logits, soft_labels, before, mask)[1]) == numbers(state)


@pytest.mark.parametrize("before", [TAID().initial_state(), at(0.5, momentum=0.3, steps=7)])
def test_a_batch_of_nothing_but_padding_is_no_step(before):
    _, state = step(TAID(), random(BATCH, CLASSES), soft_labels_of(1), before, ~EVERY)
    assert numbers(state) == numbers(before)


def test_a_loss_of_zero_before_gives_finite_numbers():
    _, state = step(TAID(), random(BATCH, CLASSES), soft_labels_of(1), at(0.5, previous_loss=0.0))
    assert all(math.isfinite(value) for value in numbers(state).values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_clients_at_once_give_what_each_gives_alone_of_the_same_types(dtype):
    objective = TAID(alpha=0.1)
    logits, soft_labels = random(2, BATCH, CLASSES).to(dtype), soft_labels_of(1).to(dtype).expand(2, -1, -1)
    masks = torch.stack([EVERY, torch.arange(BATCH) < 4])
    states = [at(0.5, momentum=0.3, steps=7), objective.initial_state()]
    alone = [step(objective, *own) for own in zip(logits, soft_labels, states, masks, strict=True)]
    together = {name: torch.stack([state[name] for state in states]) for name in states[0]}
    losses, after = torch.vmap(functools.partial(step, objective))(logits, soft_labels, together, masks)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(losses, torch.stack([loss for loss, _ in alone]), rtol=tolerance, atol=0)
    assert losses.dtype == dtype
    for name in states[0]:
        expected = torch.stack([state[name] for _, state in alone])
        assert expected.dtype == after[name].dtype == states[0][name].dtype
        torch.testing.assert_close(after[name], expected, rtol=tolerance, atol=0)
    assert after["t"][0] != after["t"][1]


# -- over steps, rounds and runs ---------------------------------------------------------------------------------------


def jobs_of(architecture, make_samples, dtype=torch.float64, sizes=(9, 5, 1)):
    terms = (Term("transfer", TAID(alpha=0.05, beta=0.5, num_steps=6)),)
    transfer, jobs = make_samples(10, 50, dtype).inputs, []
    for seed, number in enumerate(sizes):
        soft_labels = torch.softmax(random(10, 3, seed=seed), dim=1).to(dtype)
        plan = batch_plan(torch.arange(number).repeat(2, 1), 4)
        parameters = architecture.initial_parameters(seed, dtype)
        streams = {"transfer": Stream({"inputs": transfer, "soft_labels": soft_labels}, plan)}
        jobs.append(FitJob(architecture, parameters, streams, terms, OptimizerSettings(lr=0.1, momentum=0)))
    return jobs


@pytest.mark.parametrize("name", ["small", "cnn"])
def test_both_runners_remember_alike_and_each_client_for_itself(architectures, make_samples, name):
    jobs = jobs_of(architectures[name], make_samples)
    alone, together = sequential.fit(jobs), stacked.fit(jobs)
    for one, other in zip(alone, together, strict=True):
        for tensors, others in ((one.parameters, other.parameters), (one.objective_state, other.objective_state)):
            assert set(tensors) == set(others)
            for key, tensor in tensors.items():
                torch.testing.assert_close(others[key], tensor, rtol=0, atol=1e-10)
    assert [result.objective_state["transfer.0.steps"].item() for result in together] == [6, 4, 2]
    assert len({result.objective_state["transfer.0.t"].item() for result in together}) == 3


@pytest.mark.parametrize("fit", [sequential.fit, stacked.fit])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_fits_one_after_the_other_are_one(architectures, make_samples, fit, dtype):
    whole = jobs_of(architectures["small"], make_samples, dtype)
    halves = [[], []]
    for job in whole:
        stream = job.streams["transfer"]
        for half, rows in zip(halves, (slice(0, 1), slice(1, None)), strict=True):
            half.append(replace(job, streams={"transfer": replace(stream, plan=stream.plan[rows])}))
    first = fit(halves[0])
    later = [
        replace(job, parameters=own.parameters, objective_state=own.objective_state)
        for job, own in zip(halves[1], first, strict=True)
    ]
    for resumed, expected in zip(fit(later), fit(whole), strict=True):
        for key, tensor in expected.parameters.items():
            torch.testing.assert_close(resumed.parameters[key], tensor, rtol=0, atol=0)
        assert numbers(resumed.objective_state) == numbers(expected.objective_state)
        assert {key: value.dtype for key, value in resumed.objective_state.items()} == {
            "transfer.0.t": torch.float64,
            "transfer.0.momentum": torch.float64,
            "transfer.0.previous_loss": torch.float64,
            "transfer.0.steps": torch.int64,
        }


RUN = ["num_clients=3", "transfer.size=40", "learn.epochs=1", "learn.batch_size=64", "model=[mlp_small,cnn_small]"]
RUN += ["strategy=fedmd", "objective=taid", "objective.num_steps=16", "objective.alpha=0.01", "local_baseline=false"]


def outcome(directory):
    metrics = [
        {key: value for key, value in line.items() if key != "seconds"} for line in results.read_metrics(directory)
    ]
    clients = states_in(directory / FOLDER / CLIENTS, range(3))
    return metrics, tuple(leaves_of(clients))


def leaves_of(value, prefix=""):
    if isinstance(value, dict | list | tuple):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves_of(inner, f"{prefix}/{name}")
    else:
        yield prefix, value.tolist() if isinstance(value, torch.Tensor) else value


def test_a_resumed_run_ends_as_if_it_had_not_been_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)
    monkeypatch.setattr("fedfuse.conclusion.draw_figures", lambda directory, summary: [])
    monkeypatch.setattr("fedfuse.conclusion.write_report", lambda directory: directory)
    whole = simulate(composition.compose([*RUN, "num_rounds=4"]), tmp_path / "whole")
    resumed = simulate(composition.compose([*RUN, "num_rounds=2"]), tmp_path / "resumed")
    resume(resumed, num_rounds=4)
    assert outcome(resumed) == outcome(whole)
    # Two epochs of two batches in each of four rounds.
    steps = [value for name, value in outcome(whole)[1] if name.endswith("transfer.0.steps")]
    assert max(steps) == 16
    assert 1.0 in [value for name, value in outcome(whole)[1] if name.endswith("transfer.0.t")]


# -- parameters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("start", -0.1, "start=-0.1 must be from 0 to 1"),
        ("start", 1.1, "start=1.1 must be from 0 to 1"),
        ("start", math.nan, "start=nan must be from 0 to 1"),
        ("end", 0.3, "end=0.3 must be from start=0.4 to 1"),
        ("end", 1.1, "end=1.1 must be from start=0.4 to 1"),
        ("alpha", -1e-4, "alpha=-0.0001 must be finite and not negative"),
        ("alpha", math.inf, "alpha=inf must be finite and not negative"),
        ("beta", 1.0, "beta=1.0 must be from 0 to below 1"),
        ("beta", -0.1, "beta=-0.1 must be from 0 to below 1"),
        ("num_steps", 0, "num_steps=0 must be a whole number of at least 1"),
        ("num_steps", 2.5, "num_steps=2.5 must be a whole number of at least 1"),
    ],
)
def test_a_parameter_out_of_its_range_is_refused(name, value, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        TAID(**{name: value})


def test_defaults_are_those_of_the_paper_and_soft_labels_are_needed():
    assert TAID() == TAID(start=0.4, end=1.0, alpha=5e-4, beta=0.99, num_steps=400)
    assert TAID().needs == {"soft_labels"}
    assert TAID().per_sample
    assert numbers(TAID(start=0.2).initial_state()) == {"t": 0.2, "momentum": 0, "previous_loss": 0, "steps": 0}
