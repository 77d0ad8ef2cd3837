from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedfuse.client.fit import FitJob, Stream, Term, batch_plan
from fedfuse.configuration import OptimizerSettings
from fedfuse.engine import sequential
from fedfuse.models.architecture import describe
from fedfuse.models.outputs import Outputs
from fedfuse.objectives.cross_entropy import CrossEntropy
from fedfuse.objectives.kd import KD


class Normalised(nn.Module):
    """A model with batch normalisation, which only this runner can train."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.BatchNorm1d(6))
        self.head = nn.Linear(6, 3)

    def forward(self, inputs):
        features = self.body(inputs)
        return Outputs(self.head(features), features)


class RunningMean:
    """Cross-entropy over its own running mean: each step depends on all steps before it."""

    needs = frozenset({"labels"})

    def initial_state(self):
        return {"mean": torch.tensor(1.0, dtype=torch.float64), "steps": torch.tensor(0)}

    def __call__(self, outputs, batch, mask, state):
        losses = functional.cross_entropy(outputs.logits, batch["labels"], reduction="none")
        mean = 0.9 * state["mean"] + 0.1 * losses.mean()
        return losses / state["mean"], {"mean": mean, "steps": state["steps"] + 1}


def orders(number, epochs=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(number, generator=generator) for _ in range(epochs)])


def private_job(architecture, samples, seed=0, batch_size=4, **others):
    stream = Stream(
        {"inputs": samples.inputs, "labels": samples.labels}, batch_plan(orders(len(samples), seed=seed), batch_size)
    )
    settings = {"terms": (Term("private", CrossEntropy()),), "optimizer": OptimizerSettings(lr=0.1, momentum=0.5)}
    parameters = architecture.initial_parameters(seed, samples.inputs.dtype)
    return FitJob(architecture, parameters, {"private": stream}, **(settings | others))


def plain_loop(architecture, parameters, samples, optimizer, batch_size=4, seed=0):
    """Train as anyone would in torch: a model, an optimiser, slices of a permutation."""
    model = architecture.module().to(samples.inputs.dtype)
    model.load_state_dict(parameters)
    optimizer = optimizer(model.parameters())
    for order in orders(len(samples), seed=seed):
        for rows in torch.split(order, batch_size):
            optimizer.zero_grad()
            functional.cross_entropy(model(samples.inputs[rows]).logits, samples.labels[rows]).backward()
            optimizer.step()
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def assert_close(parameters, expected, tolerance=1e-12):
    assert set(parameters) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(parameters[name], tensor, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["small", "wide", "cnn"])
@pytest.mark.parametrize(
    ("settings", "optimizer"),
    [
        (OptimizerSettings("sgd", 0.1, 0.9, 0.01), partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01)),
        (OptimizerSettings("adam", 0.01), partial(torch.optim.Adam, lr=0.01)),
        (OptimizerSettings("adamw", 0.01, weight_decay=0.1), partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)),
        (OptimizerSettings("rmsprop", 0.01, 0.5), partial(torch.optim.RMSprop, lr=0.01, momentum=0.5)),
    ],
)
def test_it_does_what_a_plain_training_loop_does(architectures, make_samples, name, settings, optimizer):
    samples = [make_samples(number, number) for number in (1, 5, 16, 17)]
    jobs = [private_job(architectures[name], own, seed, optimizer=settings) for seed, own in enumerate(samples)]
    for seed, (job, own, result) in enumerate(zip(jobs, samples, sequential.fit(jobs), strict=True)):
        expected = plain_loop(architectures[name], job.parameters, own, optimizer, seed=seed)
        assert_close(result.parameters, expected)
        assert result.objective_state == {}


def test_batch_normalisation_keeps_its_running_statistics(make_samples):
    architecture, samples = describe("normalised", Normalised, (1, 4, 4)), make_samples(16)
    job = private_job(architecture, samples)
    (result,) = sequential.fit([job])
    expected = plain_loop(architecture, job.parameters, samples, partial(torch.optim.SGD, lr=0.1, momentum=0.5))
    assert_close(result.parameters, expected)
    assert result.parameters["body.2.num_batches_tracked"] == 8
    assert result.parameters["body.2.running_mean"].abs().max() > 0.01


def test_without_jobs_there_are_no_results():
    assert sequential.fit([]) == []


def test_a_job_without_steps_ends_where_it_began_with_the_first_memory(architectures, make_samples):
    job = private_job(architectures["small"], make_samples(0), terms=(Term("private", RunningMean()),))
    (result,) = sequential.fit([job])
    assert all(torch.equal(result.parameters[name], tensor) for name, tensor in job.parameters.items())
    assert {name: value.item() for name, value in result.objective_state.items()} == {"0.mean": 1, "0.steps": 0}


def test_one_job_leaves_no_trace_in_the_next(architectures, make_samples):
    small, large = (private_job(architectures["cnn"], make_samples(number), number) for number in (5, 17))
    together = sequential.fit([large, small, large])
    (alone,) = sequential.fit([small])
    for name, tensor in alone.parameters.items():
        assert torch.equal(together[1].parameters[name], tensor)
        assert torch.equal(together[0].parameters[name], together[2].parameters[name])


def test_results_are_contiguous_and_of_the_dtype_they_came_in(architectures, make_samples):
    for dtype in (torch.float32, torch.float64):
        job = private_job(architectures["cnn"], make_samples(5, dtype=dtype))
        (result,) = sequential.fit([job])
        assert list(result.parameters) == list(job.parameters)
        assert all(tensor.is_contiguous() for tensor in result.parameters.values())
        assert {tensor.dtype for tensor in result.parameters.values()} == {dtype}
        assert not any(tensor.requires_grad for tensor in result.parameters.values())


def test_what_it_was_given_is_left_as_it_was(architectures, make_samples):
    job = private_job(architectures["small"], make_samples(17))
    parameters = {name: tensor.clone() for name, tensor in job.parameters.items()}
    inputs, generator = job.streams["private"].tensors["inputs"].clone(), torch.get_rng_state()
    sequential.fit([job])
    assert all(torch.equal(job.parameters[name], tensor) for name, tensor in parameters.items())
    assert torch.equal(job.streams["private"].tensors["inputs"], inputs)
    assert torch.equal(torch.get_rng_state(), generator)


def test_an_objective_remembers_over_steps_and_from_one_fit_to_the_next(architectures, make_samples):
    samples, terms = make_samples(17), (Term("private", RunningMean()),)
    job = private_job(architectures["small"], samples, terms=terms)
    (first,) = sequential.fit([job])
    assert first.objective_state["0.steps"] == 10
    plan = job.streams["private"].plan
    halves = [Stream(job.streams["private"].tensors, plan[rows]) for rows in (slice(0, 3), slice(3, None))]
    optimizer = OptimizerSettings(lr=0.1, momentum=0)
    whole_job, first_half = (
        FitJob(job.architecture, job.parameters, {"private": stream}, terms, optimizer)
        for stream in (job.streams["private"], halves[0])
    )
    (whole,), (half,) = sequential.fit([whole_job]), sequential.fit([first_half])
    second_half = FitJob(
        job.architecture, half.parameters, {"private": halves[1]}, terms, optimizer, half.objective_state
    )
    (resumed,) = sequential.fit([second_half])
    assert_close(resumed.parameters, whole.parameters, 0)
    assert resumed.objective_state["0.mean"] == whole.objective_state["0.mean"] != 1
    assert not whole.objective_state["0.mean"].requires_grad


def test_both_streams_enter_every_step(architectures, make_samples):
    architecture, samples, transfer = architectures["small"], make_samples(12), make_samples(20, 5)
    soft_labels = torch.softmax(torch.randn(20, 3, dtype=torch.float64), 1)
    streams = {
        "private": Stream({"inputs": samples.inputs, "labels": samples.labels}, batch_plan(orders(12), 4)),
        "transfer": Stream({"inputs": transfer.inputs, "soft_labels": soft_labels}, batch_plan(orders(18), 6)),
    }
    terms = (Term("private", CrossEntropy()), Term("transfer", KD(), weight=0.5))
    job = FitJob(
        architecture, architecture.initial_parameters(0, torch.float64), streams, terms, OptimizerSettings(lr=0.1)
    )
    model = architecture.module().double()
    model.load_state_dict(job.parameters)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    for rows, others in zip(streams["private"].plan, streams["transfer"].plan, strict=True):
        own = functional.cross_entropy(model(samples.inputs[rows]).logits, samples.labels[rows])
        taught = functional.kl_div(
            torch.log_softmax(model(transfer.inputs[others]).logits, 1), soft_labels[others], reduction="batchmean"
        )
        optimizer.zero_grad()
        (own + 0.5 * taught).backward()
        optimizer.step()
    (result,) = sequential.fit([job])
    assert_close(result.parameters, {name: tensor.detach() for name, tensor in model.state_dict().items()})
