from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedfuse.client.fit import FitJob, PrivateSteps, Stream, Term
from fedfuse.client.learn_privately import equally_wide, poisson_plan
from fedfuse.configuration import OptimizerSettings
from fedfuse.device import CPU
from fedfuse.engine import perceptron, private_gradients, sequential, stacked
from fedfuse.engine.private_gradients import clip_factors
from fedfuse.models.architecture import describe
from fedfuse.models.cnn import CNN
from fedfuse.models.mlp import MLP
from fedfuse.models.outputs import Outputs
from fedfuse.objectives.cross_entropy import CrossEntropy
from fedfuse.privacy.keystream import Keystream
from fedfuse.privacy.normals import standard_normals

SHAPE = (1, 4, 4)
PERCEPTRON = describe("mlp", partial(MLP, SHAPE, 3, hidden=(7, 6), embedding_size=4), SHAPE, fused_head=True)
NETWORK = describe("cnn", partial(CNN, SHAPE, 3, channels=(3,), embedding_size=5), SHAPE)
OPTIMIZER = OptimizerSettings("sgd", lr=0.1, momentum=0.9)
TERMS = (Term("private", CrossEntropy()),)


def make_jobs(architecture=PERCEPTRON, optimizer=OPTIMIZER, sizes=(1, 5, 0, 17, 9), clip=0.5, noise=0.7, **others):
    jobs = []
    for client, number in enumerate(sizes):
        generator = torch.Generator().manual_seed(client)
        inputs = torch.randn(number, *SHAPE, generator=generator, dtype=torch.float64)
        labels = torch.randint(3, (number,), generator=generator)
        rate = min(1.0, 3 / max(number, 1))
        plan = poisson_plan(Keystream(bytes(32), f"samples {client}"), number, rate, 3 * -(-number // 3))
        private = PrivateSteps(clip, noise, max(1.0, rate * number), Keystream(bytes(32), f"noise {client}"))
        parameters = architecture.initial_parameters(client, torch.float64)
        streams = {"private": Stream({"inputs": inputs, "labels": labels}, plan)}
        jobs.append(FitJob(architecture, parameters, streams, TERMS, optimizer, private=private, **others))
    return equally_wide(jobs)


def plainly(job):
    """Train as the paper says: a sample at a time, with autograd."""
    module = job.architecture.module().double()
    module.load_state_dict(dict(job.parameters))
    trained = [own for name, own in module.named_parameters() if not name.startswith("fused_head")]
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9)
    stream, private = job.streams["private"], job.private
    for rows in stream.plan:
        sums = [torch.zeros_like(own) for own in trained]
        for row in rows[rows >= 0]:
            logits = module(stream.tensors["inputs"][row : row + 1]).logits
            loss = functional.cross_entropy(logits, stream.tensors["labels"][row : row + 1])
            gradients = torch.autograd.grad(loss, trained)
            norm = torch.cat([own.flatten() for own in gradients]).norm()
            for total, own in zip(sums, gradients, strict=True):
                total += own * min(1.0, private.clip / norm.item())
        (drawn,) = standard_normals([private.noise], sum(own.numel() for own in trained)).double()
        noise = drawn * private.noise_multiplier * private.clip
        for own, total, part in zip(trained, sums, noise.split([own.numel() for own in trained]), strict=True):
            own.grad = (total + part.reshape(total.shape)) / private.expected_batch_size
        optimizer.step()
    return module.state_dict()


def by_vmap(jobs):
    return stacked._Training(jobs, CPU).run()


def assert_close(results, others, tolerance=1e-10):
    for result, other in zip(results, others, strict=True):
        for name, tensor in other.items():
            torch.testing.assert_close(result.parameters[name], tensor, rtol=0, atol=tolerance)


def test_the_draws_hold_an_empty_batch():
    assert any((job.streams["private"].plan < 0).all(1).any() for job in make_jobs() if job.num_steps)


@pytest.mark.parametrize("fit", [sequential.fit, by_vmap, perceptron.fit])
def test_every_runner_clips_sums_noises_and_divides(fit):
    assert_close(fit(make_jobs()), map(plainly, make_jobs()))


@pytest.mark.parametrize("fit", [sequential.fit, by_vmap])
def test_networks_too(fit):
    assert_close(fit(make_jobs(NETWORK)), map(plainly, make_jobs(NETWORK)))


@pytest.mark.parametrize(
    "optimizer",
    [
        OptimizerSettings("sgd", lr=0.1, momentum=0.5, weight_decay=0.05),
        OptimizerSettings("adam", lr=0.01),
        OptimizerSettings("rmsprop", lr=0.01, momentum=0.5),
    ],
    ids=str,
)
@pytest.mark.parametrize("proximal", [0.0, 0.3])
def test_every_optimiser_moves_all_alike(optimizer, proximal):
    make = partial(make_jobs, optimizer=optimizer, proximal=proximal)
    expected = [result.parameters for result in sequential.fit(make())]
    assert_close(by_vmap(make()), expected, 1e-8)
    assert_close(perceptron.fit(make()), expected, 1e-8)
    if proximal:
        without = sequential.fit(make_jobs(optimizer=optimizer))
        assert not torch.equal(without[3].parameters["head.weight"], expected[3]["head.weight"])


def test_a_proximal_pull_looks_at_no_sample():
    # With so small a clip and no noise nothing is learnt, so there is nothing to pull back from.
    jobs = make_jobs(clip=1e-12, noise=1e-12, proximal=0.3)
    assert_close(sequential.fit(jobs), [job.parameters for job in jobs])


def test_the_fused_head_is_not_noised():
    for fit in (sequential.fit, by_vmap, perceptron.fit):
        jobs = make_jobs()
        for job, result in zip(jobs, fit(jobs), strict=True):
            assert torch.equal(result.parameters["fused_head.weight"], job.parameters["fused_head.weight"])


@pytest.mark.parametrize("fit", [sequential.fit, by_vmap, perceptron.fit])
def test_a_sample_whose_gradient_is_not_finite_is_left_out(fit):
    jobs, expected = make_jobs(), make_jobs()
    for value, row in ((torch.inf, 2), (torch.nan, 4)):
        jobs[3].streams["private"].tensors["inputs"][row] = value
        plan = expected[3].streams["private"].plan
        plan[plan == row] = -1
    # Padding repeats the first of a batch.
    for job in expected:
        job.streams["private"].plan[:] = job.streams["private"].plan.sort(dim=1, descending=True).values
    assert_close(fit(jobs), [result.parameters for result in sequential.fit(expected)])


def test_no_step_moves_further_than_one_clipped_sample_can():
    # Without noise, two runs that differ in one sample differ by its clipped gradient over the expected batch size.
    optimizer = OptimizerSettings("sgd", lr=1.0, momentum=0.0)
    one_step = [
        replace(job, streams={"private": Stream(job.streams["private"].tensors, torch.arange(9).reshape(1, 9))})
        for job in make_jobs(optimizer=optimizer, sizes=(9,), noise=1e-300)
    ]
    without = replace(
        one_step[0], streams={"private": replace(one_step[0].streams["private"], plan=torch.arange(8).reshape(1, 8))}
    )
    for fit in (sequential.fit, by_vmap, perceptron.fit):
        (first,), (second,) = fit(one_step), fit([without])
        moved = torch.cat([(first.parameters[name] - own).flatten() for name, own in second.parameters.items()])
        assert moved.norm().item() == pytest.approx(0.5 / one_step[0].private.expected_batch_size, rel=1e-9)


def test_noise_has_the_stated_size():
    optimizer = OptimizerSettings("sgd", lr=1.0, momentum=0.0)
    plan = torch.full((1, 1), -1)
    for fit in (sequential.fit, by_vmap, perceptron.fit):
        jobs = make_jobs(optimizer=optimizer, sizes=(9,) * 30, clip=2.0, noise=1.5)
        jobs = [replace(job, streams={"private": replace(job.streams["private"], plan=plan)}) for job in jobs]
        moved = torch.cat(
            [
                (result.parameters[name] - own).flatten()
                for job, result in zip(jobs, fit(jobs), strict=True)
                for name, own in private_gradients.learning(job.parameters).items()
            ]
        )
        assert moved.std().item() == pytest.approx(2.0 * 1.5 / 3.0, rel=0.05)


@pytest.mark.parametrize("fit", [by_vmap, perceptron.fit])
def test_noise_for_few_clients_at_once_is_the_same(monkeypatch, fit):
    expected = [result.parameters for result in fit(make_jobs())]
    for number in (1, 2 * PERCEPTRON.num_parameters):
        monkeypatch.setattr(private_gradients, "NUMBERS_AT_ONCE", number)
        assert_close(fit(make_jobs()), expected)


@pytest.mark.parametrize("fit", [sequential.fit, by_vmap])
def test_few_samples_at_once_give_the_same(monkeypatch, fit):
    expected = [result.parameters for result in fit(make_jobs(NETWORK))]
    for size in (1, 2 * 8 * NETWORK.num_parameters):
        monkeypatch.setattr(private_gradients, "GRADIENT_BYTES", size)
        assert_close(fit(make_jobs(NETWORK)), expected)


def test_another_loss_of_samples_goes_the_general_way():
    class Squared:
        needs, per_sample = frozenset({"labels"}), True

        def initial_state(self):
            return {}

        def __call__(self, outputs, batch, mask, state):
            return outputs.logits.square().sum(1) + outputs.features.square().sum(1), state

    def make():
        return [replace(job, terms=(Term("private", Squared()),)) for job in make_jobs()]

    assert_close(stacked.fit(make()), [result.parameters for result in sequential.fit(make())])


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(16, 3)

    def forward(self, inputs):
        features = self.drop(inputs.flatten(1))
        return Outputs(self.head(features), features)


def test_dropout_draws_for_every_sample_and_the_same_when_repeated():
    architecture = describe("dropping", Dropping, SHAPE)
    first, again = (sequential.fit(make_jobs(architecture)) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.parameters["head.weight"], other.parameters["head.weight"])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.second.weight = self.first.weight

    def forward(self, inputs):
        features = self.second(torch.tanh(self.first(inputs.flatten(1))))
        return Outputs(self.head(features), features)


def test_tied_parameters_count_once():
    architecture = describe("tied", Tied, SHAPE)
    assert_close(sequential.fit(make_jobs(architecture)), map(plainly, make_jobs(architecture)))


def test_factors_bound_norms_and_leave_small_gradients_alone():
    squared = torch.tensor([0.0, 0.25, 4.0, torch.inf, torch.nan])
    assert clip_factors(squared, 1.0).tolist() == [1.0, 1.0, 0.5, 0.0, 0.0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("clip", "tolerance"), [(0.5, 1e-6), (100.0, 1e-10)])
@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_a_step_is_that_of_opacus(clip, tolerance, noise):
    pytest.importorskip("opacus", reason="opacus is not installed")
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    architecture = describe("mlp", partial(MLP, SHAPE, 3, hidden=(7,), embedding_size=4), SHAPE)
    (job,) = make_jobs(architecture, OptimizerSettings("sgd", lr=0.1, momentum=0.0), sizes=(9,), clip=clip)
    job = replace(job, streams={"private": replace(job.streams["private"], plan=torch.arange(9).reshape(1, 9))})
    ours = replace(job.private, noise_multiplier=noise)
    (drawn,) = standard_normals([Keystream(bytes(32), "noise 0")], architecture.num_parameters).double()
    (result,) = sequential.fit([replace(job, private=ours)])

    class GivenNoise(DPOptimizer):
        def add_noise(self):
            parts = drawn.split([own.numel() for own in self.params])
            for own, part in zip(self.params, parts, strict=True):
                own.grad = (own.summed_grad + noise * clip * part.reshape(own.shape)).view_as(own)

    module = architecture.module().double()
    module.load_state_dict(dict(job.parameters))
    wrapped = GradSampleModule(module, loss_reduction="sum")
    kind = GivenNoise if noise else DPOptimizer
    optimizer = kind(
        torch.optim.SGD(wrapped.parameters(), lr=0.1),
        noise_multiplier=noise,
        max_grad_norm=clip,
        expected_batch_size=ours.expected_batch_size,
        loss_reduction="mean",
    )
    tensors = job.streams["private"].tensors
    # Of a sum over samples, each has its own gradient; the optimiser divides by the expected batch size.
    loss = functional.cross_entropy(wrapped(tensors["inputs"]).logits, tensors["labels"], reduction="sum")
    torch.autograd.backward(loss)
    optimizer.step()
    for name, own in module.state_dict().items():
        torch.testing.assert_close(result.parameters[name], own, rtol=0, atol=tolerance)
