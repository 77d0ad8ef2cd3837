import platform
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedfuse.client.fit import FitJob, Stream, Term, batch_plan
from fedfuse.configuration import OptimizerSettings
from fedfuse.data.samples import Samples
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


def test_a_batch_of_one_sample_is_normalised_by_the_running_statistics(make_samples):
    architecture, samples = describe("normalised", Normalised, (1, 4, 4)), make_samples(5)
    job = private_job(architecture, samples)
    first, alone, *_ = job.streams["private"].plan.split(1)
    model = architecture.module().double()
    model.load_state_dict(job.parameters)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    for plan in (first, alone):
        rows = plan[plan >= 0]
        model.train(len(rows) > 1)
        optimizer.zero_grad()
        functional.cross_entropy(model(samples.inputs[rows]).logits, samples.labels[rows]).backward()
        optimizer.step()
    stream = Stream(job.streams["private"].tensors, job.streams["private"].plan[:2])
    (result,) = sequential.fit([replace(job, streams={"private": stream})])
    assert (alone >= 0).sum() == 1
    assert_close(result.parameters, {name: tensor.detach() for name, tensor in model.state_dict().items()})
    assert result.parameters["body.2.num_batches_tracked"] == 1


class FrozenNorm(Normalised):
    """A model that keeps its normalisation as it is, also while it trains."""

    def train(self, mode=True):
        super().train(mode)
        self.body[2].eval()
        return self


def test_a_normalisation_that_the_model_keeps_fixed_stays_so(make_samples):
    architecture = describe("frozen", FrozenNorm, (1, 4, 4))
    (result,) = sequential.fit([private_job(architecture, make_samples(16))])
    assert result.parameters["body.2.num_batches_tracked"] == 0


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Dropout(0.5))
        self.head = nn.Linear(6, 3)

    def forward(self, inputs):
        features = self.body(inputs)
        return Outputs(self.head(features), features)


def test_dropout_repeats_whatever_was_drawn_before_and_follows_the_order_of_the_samples(make_samples):
    architecture, samples = describe("dropping", Dropping, (1, 4, 4)), make_samples(16)
    job = private_job(architecture, samples)
    before = torch.get_rng_state()
    (first,) = sequential.fit([job])
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    others = [private_job(architecture, samples, seed) for seed in (1, 2)]
    *_, again = sequential.fit([*others, job])
    assert all(torch.equal(first.parameters[name], tensor) for name, tensor in again.parameters.items())
    undropped = private_job(architecture, samples, optimizer=OptimizerSettings(lr=0.1, momentum=0.5))
    expected = plain_loop(architecture, undropped.parameters, samples, partial(torch.optim.SGD, lr=0.1, momentum=0.5))
    assert not torch.equal(first.parameters["head.weight"], expected["head.weight"])


def test_other_orders_drop_others(make_samples):
    class Recording:
        needs = frozenset({"labels"})

        def __init__(self):
            self.dropped = []

        def initial_state(self):
            return {}

        def __call__(self, outputs, batch, mask, state):
            self.dropped.append((outputs.features == 0).detach())
            return outputs.logits.square().sum(1), state

    architecture, samples, recording = describe("dropping", Dropping, (1, 4, 4)), make_samples(16), Recording()
    terms = (Term("private", recording),)
    sequential.fit([private_job(architecture, samples, seed, terms=terms) for seed in (1, 2)])
    halves = [torch.cat(recording.dropped[:8]), torch.cat(recording.dropped[8:])]
    assert not torch.equal(*halves)
    assert all(0.3 < half.float().mean() < 0.7 for half in halves)
    assert not torch.equal(halves[0][:4], halves[0][4:8])


class Flattening(nn.Module):
    """A convolutional network that relies on the usual order in memory."""

    def __init__(self):
        super().__init__()
        self.register_buffer("order", torch.arange(2))
        self.convolution, self.head = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(32, 3)

    def forward(self, inputs):
        features = self.convolution(inputs)[:, self.order].contiguous().view(-1, 32)
        features = features + self.convolution(inputs).view(-1, 32)
        return Outputs(self.head(features), features)


def test_a_model_that_needs_the_usual_order_in_memory_or_begins_with_whole_numbers_is_trained(make_samples):
    architecture, samples = describe("flattening", Flattening, (1, 4, 4)), make_samples(5)
    job = private_job(architecture, samples)
    assert next(iter(job.parameters)) == "order"
    (result,) = sequential.fit([job])
    expected = plain_loop(architecture, job.parameters, samples, partial(torch.optim.SGD, lr=0.1, momentum=0.5))
    assert_close(result.parameters, expected)


def test_padding_is_left_out_of_batches_wherever_it_stands():
    tensors = {"inputs": torch.tensor([[0], [51], [102], [255]], dtype=torch.uint8), "labels": torch.arange(4)}
    plan = torch.tensor([[3, 0, 1], [-1, 2, -1], [-1, -1, -1]])
    steps = [*sequential.batches_of(Stream(tensors, plan, {"scale": torch.tensor(0.5)}), torch.float64)]
    assert [batch["labels"].tolist() for batch, _ in steps] == [[3, 0, 1], [2], []]
    assert [batch["inputs"].flatten().tolist() for batch, _ in steps] == [[1, 0, 0.2], [0.4], []]
    assert [mask.tolist() for _, mask in steps] == [[True] * 3, [True], []]
    assert all(batch["inputs"].dtype == torch.float64 and batch["scale"] == 0.5 for batch, _ in steps)


def test_what_a_step_has_no_samples_of_is_no_part_of_it(architectures, make_samples):
    own, others = make_samples(5), make_samples(6, 1)
    terms = Term("private", CrossEntropy()), Term("other", CrossEntropy())
    job = private_job(architectures["small"], own)
    tensors, plan = job.streams["private"].tensors, torch.tensor([[0, 1, 2], [3, 4, -1]])
    other = Stream({"inputs": others.inputs, "labels": others.labels}, torch.full((2, 1), -1))
    alone, beside, nothing = sequential.fit(
        [
            replace(job, streams={"private": Stream(tensors, plan)}),
            replace(job, streams={"private": Stream(tensors, plan), "other": other}, terms=terms),
            replace(job, streams={"private": Stream(tensors, torch.full((2, 3), -1))}),
        ]
    )
    assert_close(beside.parameters, alone.parameters, 0)
    assert_close(nothing.parameters, job.parameters, 0)


def test_without_jobs_there_are_no_results():
    assert sequential.fit([]) == []


def test_a_job_without_steps_ends_where_it_began_with_the_first_memory(architectures, make_samples):
    job = private_job(architectures["small"], make_samples(0), terms=(Term("private", RunningMean()),))
    (result,) = sequential.fit([job])
    assert all(torch.equal(result.parameters[name], tensor) for name, tensor in job.parameters.items())
    assert {name: value.item() for name, value in result.objective_state.items()} == {
        "private.0.mean": 1,
        "private.0.steps": 0,
    }


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
    assert first.objective_state["private.0.steps"] == 10
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
    assert resumed.objective_state["private.0.mean"] == whole.objective_state["private.0.mean"] != 1
    assert not whole.objective_state["private.0.mean"].requires_grad


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


def test_pixels_are_trained_on_as_the_numbers_from_0_to_1_that_they_stand_for(architectures, make_samples):
    own = make_samples(7)
    pixels = (torch.arange(own.inputs.numel()).reshape(own.inputs.shape) * 37 % 256).to(torch.uint8)
    jobs = [
        private_job(architectures["cnn"], Samples(inputs, own.labels)) for inputs in (pixels.double() / 255, pixels)
    ]
    jobs[1] = replace(jobs[1], parameters=jobs[0].parameters)
    numbers, stored = sequential.fit(jobs)
    assert_close(stored.parameters, numbers.parameters, tolerance=0)


def test_a_proximal_term_pulls_every_step_back_to_where_the_training_started(architectures, make_samples):
    architecture, samples = architectures["small"], make_samples(10)
    job = private_job(architecture, samples, proximal=0.7)
    (result,) = sequential.fit([job])

    model = architecture.module().to(torch.float64)
    model.load_state_dict(job.parameters)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    for order in orders(10):
        for rows in torch.split(order, 4):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(samples.inputs[rows]).logits, samples.labels[rows])
            distance = sum((own - job.parameters[name]).square().sum() for name, own in model.named_parameters())
            (loss + 0.7 / 2 * distance).backward()
            optimizer.step()
    assert_close(result.parameters, model.state_dict())


def test_a_strong_proximal_term_keeps_the_weights_near(architectures, make_samples):
    samples = make_samples(10)
    free, held = (private_job(architectures["small"], samples, proximal=strength) for strength in (0.0, 5.0))

    def moved(job):
        (result,) = sequential.fit([job])
        return sum((result.parameters[name] - start).square().sum() for name, start in job.parameters.items())

    assert moved(held) < 0.5 * moved(free)


def head_stream(architecture, plan):
    """Four labelled samples of the feature space."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(4, architecture.embedding_size, generator=generator, dtype=torch.float64)
    return Stream({"features": features, "labels": torch.tensor([0, 1, 2, 0])}, torch.tensor(plan))


@pytest.mark.parametrize("name", ["small", "cnn"])
def test_features_beside_private_samples_teach_the_head(architectures, make_samples, name):
    architecture, samples = architectures[name], make_samples(8)
    job = private_job(architecture, samples)
    stream = head_stream(architecture, [[0, 1], [2, -1], [3, 1], [0, -1]])
    terms = (*job.terms, Term("head", CrossEntropy(), weight=0.5))
    (result,) = sequential.fit([replace(job, streams={**job.streams, "head": stream}, terms=terms)])

    model = architecture.module().double()
    model.load_state_dict(job.parameters)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    for rows, others in zip(job.streams["private"].plan, stream.plan, strict=True):
        others = others[others >= 0]
        own = functional.cross_entropy(model(samples.inputs[rows]).logits, samples.labels[rows])
        logits = model.head(stream.tensors["features"][others])
        optimizer.zero_grad()
        (own + 0.5 * functional.cross_entropy(logits, stream.tensors["labels"][others])).backward()
        optimizer.step()
    assert_close(result.parameters, {key: tensor.detach() for key, tensor in model.state_dict().items()})


def test_from_features_alone_nothing_is_learnt_below_the_head(architectures):
    architecture = architectures["small"]
    parameters = architecture.initial_parameters(0, torch.float64)
    stream = head_stream(architecture, [[0, 1], [2, 3]])
    job = FitJob(architecture, parameters, {"head": stream}, (Term("head", CrossEntropy()),), OptimizerSettings(lr=0.1))
    (result,) = sequential.fit([job])
    changed = {name for name, tensor in result.parameters.items() if not torch.equal(tensor, parameters[name])}
    assert changed == {"head.weight", "head.bias"}


def test_a_single_feature_does_not_stop_batch_normalisation_of_the_private_samples(make_samples):
    architecture = describe("normalised", Normalised, (1, 4, 4))
    job = private_job(architecture, make_samples(16))
    stream = head_stream(architecture, [[0]] * 8)
    terms = (*job.terms, Term("head", CrossEntropy()))
    (result,) = sequential.fit([replace(job, streams={**job.streams, "head": stream}, terms=terms)])
    assert result.parameters["body.2.num_batches_tracked"] == 8


FAULTS = """
import resource
import torch
from fedfuse.engine import sequential

def go_through_40_mib():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.ones(20 * 2**18) for _ in range(2)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

sequential._keep_freed_memory()
go_through_40_mib()
print(go_through_40_mib())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's memory is known here")
def test_memory_that_a_step_has_used_is_there_for_the_next():
    # Processes of their own: what was freed before in this one counts too. Where the system lays memory out so that it
    # cannot grow in one piece, nothing helps, so one that has what it used is enough; without it none ever has.
    faults = []
    for _ in range(6):
        finished = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True)
        faults.append(int(finished.stdout))
        if faults[-1] < 2000:  # of 10,240 pages
            return
    raise AssertionError(f"pages were fetched anew in every process: {faults}")


def test_every_fit_keeps_freed_memory(monkeypatch, architectures, make_samples):
    kept = []
    monkeypatch.setattr(sequential, "_keep_freed_memory", lambda: kept.append(True))
    sequential.fit([private_job(architectures["small"], make_samples(4))])
    assert kept == [True]
