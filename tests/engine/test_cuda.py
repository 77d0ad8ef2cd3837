"""Cohorts on a CUDA device: the same numbers as on the processor, and nothing that waits in between."""

import warnings
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from fedfuse.client.absorb import absorb
from fedfuse.client.client import Client, first_state
from fedfuse.client.evaluate import evaluate
from fedfuse.client.express import express
from fedfuse.client.fit import FitJob, Stream, Term, batch_plan
from fedfuse.client.learn import learn
from fedfuse.client.predict import predict
from fedfuse.configuration import OptimizerSettings, TrainingSettings
from fedfuse.data.federation import ClientData, TransferSet
from fedfuse.data.samples import Samples
from fedfuse.device import CPU, Device, computing_on
from fedfuse.engine import sequential, stacked
from fedfuse.engine.local_grid import LocalGrid
from fedfuse.messages import SHARE, Reply, Request
from fedfuse.models.architecture import describe
from fedfuse.models.lenet import LeNet
from fedfuse.models.mlp import MLP
from fedfuse.models.outputs import Outputs
from fedfuse.models.resnet import ResNet
from fedfuse.objectives.cross_entropy import CrossEntropy
from fedfuse.objectives.kd import KD

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

NUM_CLASSES, NUM_TRANSFER = 3, 10
SIZES = (1, 5, 16, 17, 40)
MODELS = {
    "mlp": (partial(MLP, hidden=(6,), embedding_size=5), (1, 4, 4)),
    "lenet": (LeNet, (1, 12, 12)),
    "lenet, averaged": (LeNet, (1, 28, 40)),
    "resnet-8": (partial(ResNet, width=8), (3, 8, 8)),
}
OPTIMIZERS = [
    OptimizerSettings("sgd", lr=0.1, momentum=0.9, weight_decay=0.01),
    OptimizerSettings("adam", lr=0.01),
    OptimizerSettings("adamw", lr=0.01, weight_decay=0.1),
    OptimizerSettings("rmsprop", lr=0.001, momentum=0.5),
]


class RunningMean:
    """Distillation over its own running mean."""

    needs = frozenset({"soft_labels"})
    per_sample = True

    def initial_state(self):
        return {"mean": torch.tensor(1.0, dtype=torch.float64), "samples": torch.tensor(0)}

    def __call__(self, outputs, batch, mask, state):
        losses, _ = KD()(outputs, batch, mask, {})
        mean = torch.where(mask, losses, 0).sum() / mask.sum().clamp_min(1)
        return losses / state["mean"], {
            "mean": 0.8 * state["mean"] + 0.2 * mean,
            "samples": state["samples"] + mask.sum(),
        }


class NotRecordable(RunningMean):
    """An objective that copies a number from the processor in every step."""

    def __call__(self, outputs, batch, mask, state):
        losses, after = super().__call__(outputs, batch, mask, state)
        return losses * torch.tensor([0.5], dtype=losses.dtype).to(losses.device), after


class Normalised(nn.Module):
    """A network with batch normalisation and dropout."""

    def __init__(self, p):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(p))
        self.head = nn.Linear(8, NUM_CLASSES)

    def forward(self, inputs):
        features = self.body(inputs)
        return Outputs(self.head(features), features)


def draw(shape, number, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_CLASSES, (number,), generator=generator)
    inputs = torch.rand(number, *shape, generator=generator, dtype=torch.float64)
    inputs[torch.arange(number), :, :, labels] += 1
    return Samples(inputs.to(dtype), labels)


def describe_model(name):
    build, shape = MODELS[name]
    return describe(name, partial(build, shape, NUM_CLASSES), shape)


@pytest.fixture
def cohort_of(make_settings):
    """Return a function that makes ragged clients of one model, and their settings."""

    def make(name, dtype=torch.float64, optimizer=OPTIMIZERS[0], **changes):
        architecture = describe_model(name)
        _, shape = MODELS[name]
        clients = [
            Client(
                client_id,
                architecture,
                ClientData(
                    *(draw(shape, number, 3 * client_id + part, dtype) for part, number in enumerate((size, 4, 6)))
                ),
            )
            for client_id, size in enumerate(SIZES)
        ]
        training = TrainingSettings(2, 4, optimizer)
        settings = make_settings(
            dtype=dtype,
            learn=training,
            absorb=training,
            transfer=TransferSet(draw(shape, NUM_TRANSFER, 1001, dtype).inputs),
            global_test=draw(shape, 9, 1002, dtype),
            **changes,
        )
        return clients, settings

    return make


def run(fit, device, clients, settings, rounds):
    """Learn, share, mix, absorb and evaluate: client 1 gets nothing to absorb, 3 a part of the rows."""
    states = [first_state(client, settings) for client in clients]
    requests = [Request(round=1, sends=("soft_labels",), rows=torch.arange(NUM_TRANSFER))] * len(clients)
    for round in range(1, rounds + 1):
        with computing_on(device):
            states = learn(clients, states, round, settings, fit)
            shared = [own["soft_labels"]["soft_labels"] for own in express(clients, states, requests, settings)]
        mean, part = torch.stack(shared).mean(0), [0, 2, 3, 5, 9]
        fused = [{"soft_labels": mean}] * len(clients)
        fused[3] = {"soft_labels": mean[part], "rows": torch.tensor(part, dtype=torch.int32)}
        received = [Request(round=round, fused={"soft_labels": own}, fused_round=round) for own in fused]
        received[1] = Request(round=round)
        with computing_on(device):
            states = absorb(clients, states, received, settings, fit)
            metrics = evaluate(clients, states, settings)
    with computing_on(device):
        shared = [own["soft_labels"]["soft_labels"] for own in express(clients, states, requests, settings)]
    return states, torch.stack(shared), metrics


def assert_agree(clients, settings, rounds, tolerance, fit=stacked.fit):
    states, soft_labels, metrics = run(sequential.fit, CPU, clients, settings, rounds)
    on_cuda, others, other_metrics = run(fit, Device("cuda"), clients, settings, rounds)
    torch.testing.assert_close(others, soft_labels, rtol=0, atol=tolerance)
    start = [first_state(client, settings) for client in clients]
    for state, other, first in zip(states, on_cuda, start, strict=True):
        assert list(state.parameters) == list(other.parameters)
        assert set(state.objective_state) == set(other.objective_state)
        for name, tensor in (*other.parameters.items(), *other.objective_state.items()):
            assert tensor.device.type == "cpu" and not tensor.is_pinned() and not tensor.requires_grad
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size(), name
        assert any((state.parameters[name] - first.parameters[name]).abs().max() > 1e-3 for name in first.parameters)
        for name, tensor in state.objective_state.items():
            assert other.objective_state[name].dtype == tensor.dtype
            torch.testing.assert_close(other.objective_state[name], tensor, rtol=0, atol=tolerance)
    for own, other in zip(metrics, other_metrics, strict=True):
        assert other["personal_loss"] == pytest.approx(own["personal_loss"], abs=10 * tolerance)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer.name)
@pytest.mark.parametrize("name", MODELS)
def test_float64_runs_agree_with_one_client_after_the_other_on_the_processor(cohort_of, name, optimizer):
    assert_agree(*cohort_of(name, optimizer=optimizer), rounds=3, tolerance=1e-8)


@pytest.mark.parametrize("name", MODELS)
def test_one_float32_round_agrees(cohort_of, name):
    # With small steps: large ones of a deep network drive two ways of rounding apart within the round.
    optimizer = replace(OPTIMIZERS[0], lr=0.01)
    assert_agree(*cohort_of(name, torch.float32, optimizer), rounds=1, tolerance=1e-4)


@pytest.mark.parametrize("objective", [RunningMean(), NotRecordable()], ids=["recorded", "not recordable"])
@pytest.mark.parametrize("name", ["mlp", "resnet-8"])
def test_the_memory_of_an_objective_is_each_clients_own(cohort_of, name, objective):
    assert_agree(*cohort_of(name, objective=objective), rounds=3, tolerance=1e-8)


def test_clients_can_be_trained_one_after_the_other_there(cohort_of):
    assert_agree(*cohort_of("lenet"), rounds=2, tolerance=1e-8, fit=sequential.fit)


@pytest.mark.parametrize("name", MODELS)
def test_the_same_run_gives_the_same_bits_again(cohort_of, name):
    clients, settings = cohort_of(name, torch.float32)
    device = Device("cuda")
    first, second = (run(stacked.fit, device, clients, settings, 2)[0] for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(one.parameters[name], tensor) for name, tensor in other.parameters.items())


def jobs_of(name, sizes=SIZES):
    """Make jobs with two streams beside each other, samples of the feature space, and a pull to the start."""
    architecture, jobs = describe_model(name), []
    _, shape = MODELS[name]
    transfer = draw(shape, 9, 50, torch.float64).inputs
    terms = (
        Term("private", CrossEntropy()),
        Term("transfer", RunningMean(), weight=0.5),
        Term("head", CrossEntropy(), weight=0.7),
    )
    for seed, number in enumerate(sizes):
        samples, generator = draw(shape, number, seed, torch.float64), torch.Generator().manual_seed(seed)
        plan = batch_plan(torch.arange(number).repeat(2, 1), 4)
        features = torch.randn(6, architecture.embedding_size, generator=generator, dtype=torch.float64)
        soft_labels = torch.softmax(torch.randn(9, NUM_CLASSES, generator=generator, dtype=torch.float64), 1)
        scale = {"scale": torch.tensor(0.5 + seed, dtype=torch.float64)}
        streams = {
            "private": Stream({"inputs": samples.inputs, "labels": samples.labels}, plan),
            "transfer": Stream(
                {"inputs": transfer, "soft_labels": soft_labels}, torch.arange(3 * len(plan)).reshape(-1, 3) % 9, scale
            ),
            "head": Stream(
                {"features": features, "labels": torch.arange(6) % 3},
                torch.randint(-1, 6, (len(plan), 5), generator=generator).sort(1, descending=True).values,
            ),
        }
        parameters = architecture.initial_parameters(seed, torch.float64)
        jobs.append(FitJob(architecture, parameters, streams, terms, OPTIMIZERS[1], proximal=0.3))
    return jobs


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sizes", [SIZES, (0, 3, 17), (0, 0), (40,)], ids=str)
def test_streams_side_by_side_agree(name, sizes):
    jobs = jobs_of(name, sizes)
    with computing_on(Device("cuda")):
        results = stacked.fit(jobs)
    for result, expected in zip(results, sequential.fit(jobs), strict=True):
        for own, others in (
            (result.parameters, expected.parameters),
            (result.objective_state, expected.objective_state),
        ):
            assert set(own) == set(others)
            for key, tensor in others.items():
                torch.testing.assert_close(own[key], tensor, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("limits", "recorded"),
    [
        ({}, True),
        ({"FEWEST_RECORDED_STEPS": 19}, True),
        ({"FEWEST_RECORDED_STEPS": 20}, False),
        ({"LARGEST_RECORDED": 1}, False),
    ],
    ids=str,
)
def test_no_step_waits_for_the_device(monkeypatch, limits, recorded):
    for name, value in limits.items():
        monkeypatch.setattr(stacked, name, value)
    device = Device("cuda")
    with computing_on(device):
        training = stacked._Training(jobs_of("resnet-8"), device)
        training._advance(0)
        try:
            with warnings.catch_warnings(action="ignore"):  # that the mode may overlook something
                torch.cuda.set_sync_debug_mode("error")
            for step in range(1, 20):
                training._advance(step)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert (training._recording is not None) == recorded


def test_what_was_learnt_is_not_sent_to_the_device_again(cohort_of, monkeypatch):
    clients, settings = cohort_of("lenet")
    requests = [Request(round=1, sends=("soft_labels",), rows=torch.arange(NUM_TRANSFER))] * len(clients)
    device, sent = Device("cuda"), []
    with computing_on(device):
        states = learn(clients, [first_state(client, settings) for client in clients], 1, settings, stacked.fit)
        real = Device._copy
        monkeypatch.setattr(
            Device,
            "_copy",
            lambda self, tensors, make: real(self, tensors, lambda: sent.append(len(tensors)) or make()),
        )
        express(clients, states, requests, settings)
        express(clients, states, requests, settings)
    assert sent == [1]  # the transfer set
    assert not device._copies


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_models_that_cannot_be_stacked_are_trained_one_after_the_other_there(p):
    architecture = describe("normalised", partial(Normalised, p), (1, 4, 4))
    jobs = [
        FitJob(
            architecture,
            architecture.initial_parameters(seed, torch.float64),
            {
                "private": Stream(
                    dict(
                        zip(("inputs", "labels"), vars(draw((1, 4, 4), 17, seed, torch.float64)).values(), strict=True)
                    ),
                    batch_plan(torch.arange(17).repeat(2, 1), 4),
                )
            },
            (Term("private", CrossEntropy()),),
            OPTIMIZERS[0],
        )
        for seed in range(3)
    ]
    before = torch.get_rng_state(), torch.cuda.get_rng_state()
    device = Device("cuda")
    with computing_on(device):
        results, again = sequential.fit(jobs), sequential.fit(jobs)
        inputs = draw((1, 4, 4), 7, 9, torch.float64).inputs
        outputs = predict(architecture, [result.parameters for result in results], [inputs] * 3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.equal(torch.cuda.get_rng_state(), before[1])
    for result, other in zip(results, again, strict=True):
        assert all(torch.equal(result.parameters[name], tensor) for name, tensor in other.parameters.items())
    expected = predict(architecture, [result.parameters for result in results], [inputs] * 3)
    for own, other in zip(outputs, expected, strict=True):
        torch.testing.assert_close(own.logits, other.logits, rtol=0, atol=1e-12)
    if p == 0:
        for result, other in zip(results, sequential.fit(jobs), strict=True):
            for name, tensor in other.parameters.items():
                torch.testing.assert_close(result.parameters[name], tensor, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("at_once", [3, 16_384])
def test_ragged_and_shared_inputs_are_predicted_in_parts(monkeypatch, name, at_once):
    monkeypatch.setattr("fedfuse.client.predict.SAMPLES_AT_ONCE", at_once)
    architecture = describe_model(name)
    _, shape = MODELS[name]
    parameters = [architecture.initial_parameters(seed, torch.float64) for seed in range(3)]
    pixels = torch.arange(5 * shape[0] * shape[1] * shape[2]).reshape(5, *shape).mul(37).remainder(256).to(torch.uint8)
    ragged = [draw(shape, number, number, torch.float64).inputs for number in (4, 0, 7)]
    for inputs in (ragged, [pixels] * 3, [ragged[1]] * 3):
        with computing_on(Device("cuda")):
            together = predict(architecture, parameters, inputs)
        for own, other in zip(together, predict(architecture, parameters, inputs), strict=True):
            torch.testing.assert_close(own.logits, other.logits, rtol=0, atol=1e-12)
            torch.testing.assert_close(own.features, other.features, rtol=0, atol=1e-12)
            assert own.fused_logits is other.fused_logits is None


@pytest.mark.parametrize("tf32", [False, True])
def test_float32_is_rounded_only_where_that_was_asked_for_and_only_meanwhile(tf32):
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(2, 256, 256, generator=generator, dtype=torch.float64)
    images = torch.randn(8, 32, 16, 16, generator=generator, dtype=torch.float64)
    kernels = torch.randn(32, 32, 3, 3, generator=generator, dtype=torch.float64)
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with computing_on(Device("cuda", tf32)):
        product = matrices[0].float().cuda() @ matrices[1].float().cuda()
        maps = torch.conv2d(images.float().cuda(), kernels.float().cuda())
        errors = [
            (product.cpu().double() - matrices[0] @ matrices[1]).abs().max().item() / 16,
            (maps.cpu().double() - torch.conv2d(images, kernels)).abs().max().item() / 17,
        ]
    # Of a convolution this small torch may choose a way that does not round.
    assert (errors[0] > 1e-4) == tf32
    assert max(errors) < (1e-2 if tf32 else 1e-5)
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before


def test_a_grid_computes_its_clients_there(cohort_of, monkeypatch):
    clients, settings = cohort_of("resnet-8")
    used = []
    monkeypatch.setattr(
        stacked, "_Training", lambda jobs, device, real=stacked._Training: used.append(device) or real(jobs, device)
    )
    request = Request(round=1, sends=("soft_labels",), rows=torch.arange(NUM_TRANSFER))
    answers = []
    for device in (CPU, Device("cuda")):
        grid = LocalGrid(clients, settings, device=device)
        messages = [grid.create_message(request.to_record(), SHARE, node, "1") for node in grid.get_node_ids()]
        replies = [Reply.from_record(reply.content) for reply in grid.send_and_receive(messages)]
        answers.append(torch.stack([reply.knowledge.carriers["soft_labels"]["soft_labels"] for reply in replies]))
    assert [device.torch_device.type for device in used] == ["cuda"]
    torch.testing.assert_close(answers[1], answers[0], rtol=0, atol=1e-8)


def test_a_cohort_too_large_for_the_memory_is_trained_in_halves(monkeypatch):
    jobs = jobs_of("lenet")
    sizes, real = [], stacked._Training.run

    def run_out(training):
        sizes.append(len(training._jobs))
        if len(training._jobs) > 2:
            torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
        return real(training)

    monkeypatch.setattr(stacked._Training, "run", run_out)
    with computing_on(Device("cuda")):
        results = stacked.fit(jobs)
    assert sizes == [5, 2, 3, 1, 2]
    for result, expected in zip(results, sequential.fit(jobs), strict=True):
        for name, tensor in expected.parameters.items():
            torch.testing.assert_close(result.parameters[name], tensor, rtol=0, atol=1e-9)


def test_a_single_client_too_large_for_the_memory_is_an_error(monkeypatch):
    monkeypatch.setattr(
        stacked._Training, "run", lambda training: torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
    )
    with computing_on(Device("cuda")), pytest.raises(torch.OutOfMemoryError):
        stacked.fit([replace(job) for job in jobs_of("mlp", (5,))])
