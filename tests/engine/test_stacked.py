import gc
import math
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedfuse.client.absorb import absorb
from fedfuse.client.client import Client, first_state
from fedfuse.client.evaluate import evaluate
from fedfuse.client.express import express
from fedfuse.client.fit import FitJob, Stream, Term, batch_plan
from fedfuse.client.learn import learn
from fedfuse.configuration import OptimizerSettings, TrainingSettings
from fedfuse.device import Device
from fedfuse.engine import sequential, stacked
from fedfuse.messages import Request
from fedfuse.models.architecture import describe
from fedfuse.models.outputs import Outputs
from fedfuse.objectives.cross_entropy import CrossEntropy
from fedfuse.objectives.kd import KD
from fedfuse.objectives.prototype import Prototype

NUM_TRANSFER = 10
CROSS_ENTROPY = (Term("private", CrossEntropy()),)
OPTIMIZERS = [
    OptimizerSettings("sgd", lr=0.1, momentum=0.0),
    OptimizerSettings("sgd", lr=0.1, momentum=0.9),
    OptimizerSettings("sgd", lr=0.1, momentum=0.5, weight_decay=0.05),
    OptimizerSettings("adam", lr=0.01),
    OptimizerSettings("adam", lr=0.01, weight_decay=0.05),
    OptimizerSettings("adamw", lr=0.01, weight_decay=0.1),
    OptimizerSettings("rmsprop", lr=0.01, momentum=0.5, weight_decay=0.05),
]


class GroupNormed(nn.Module):
    """A convolutional network with group normalisation."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()
        )
        self.head = nn.Linear(16, 3)

    def forward(self, inputs):
        features = self.body(inputs)
        return Outputs(self.head(features), features)


class PartlyFixed(nn.Module):
    """A model with layers that are not trained, a buffer, and a layer that is not used."""

    def __init__(self):
        super().__init__()
        self.flatten = nn.Flatten()
        self.fixed = nn.Linear(16, 8).requires_grad_(False)
        self.body = nn.Linear(8, 5)
        self.head = nn.Linear(5, 3)
        self.unused = nn.Linear(2, 2)
        self.register_buffer("shift", torch.full((5,), 0.25))

    def forward(self, inputs):
        features = torch.tanh(self.body(self.fixed(self.flatten(inputs)))) + self.shift
        return Outputs(self.head(features), features)


class RunningMean:
    """Distillation over its own running mean, which also counts its batches and their samples."""

    needs = frozenset({"soft_labels"})

    def initial_state(self):
        return {"mean": torch.tensor(1.0, dtype=torch.float64), "batches": torch.tensor(0), "samples": torch.tensor(0)}

    def __call__(self, outputs, batch, mask, state):
        losses, _ = KD()(outputs, batch, mask, {})
        mean = torch.where(mask, losses, 0).sum() / mask.sum().clamp_min(1)
        return losses / state["mean"], {
            "mean": 0.8 * state["mean"] + 0.2 * mean,
            "batches": state["batches"] + 1,
            "samples": state["samples"] + mask.sum(),
        }


class Scalar:
    """A loss that is one number for a batch and leaves out padding itself: the spread of the features."""

    needs = frozenset()

    def initial_state(self):
        return {}

    def __call__(self, outputs, batch, mask, state):
        kept = mask.unsqueeze(1)
        mean = torch.where(kept, outputs.features, 0).sum(0) / mask.sum()
        return torch.where(kept, (outputs.features - mean).square(), 0).sum() / mask.sum(), state


@pytest.fixture(autouse=True, params=["perceptrons by hand", "all vmapped"])
def way(request, monkeypatch):
    """Train perceptrons as they are on the processor, and once more as all other models."""
    if request.param == "all vmapped":
        monkeypatch.setattr(stacked.perceptron, "fit", lambda jobs: stacked._Training(jobs, Device()).run())


@pytest.fixture
def cohort_of(make_clients):
    """Return a function that makes the five ragged clients with one architecture, which may be a new one."""

    def make(model, dtype=torch.float64):
        if isinstance(model, str):
            return make_clients((model,), dtype=dtype)
        architecture = describe(model.__name__, model, (1, 4, 4))
        return tuple(
            Client(client.client_id, architecture, client.data) for client in make_clients(("small",), dtype=dtype)
        )

    return make


def run(fit, clients, settings, rounds=3):
    """Learn, share, mix and absorb: client 1 gets nothing to absorb, 2 an empty set of rows, 3 a part of the rows."""
    states = [first_state(client, settings) for client in clients]
    rows = torch.arange(NUM_TRANSFER)
    for round in range(1, rounds + 1):
        states = learn(clients, states, round, settings, fit)
        requests = [Request(round=round, sends=("soft_labels",), rows=rows)] * len(clients)
        shared = express(clients, states, requests, settings)
        mean = torch.stack([own["soft_labels"]["soft_labels"] for own in shared]).mean(0)

        def fused(kept, round=round, mean=mean):
            tensors = {"soft_labels": mean[kept], "rows": torch.tensor(kept, dtype=torch.int32)}
            return Request(round=round, fused={"soft_labels": tensors}, fused_round=round)

        part = [0, 2, 3, 5, 9]
        everything = Request(round=round, fused={"soft_labels": {"soft_labels": mean}}, fused_round=round)
        states = absorb(
            clients, states, [everything, Request(round=round), fused([]), fused(part), everything], settings, fit
        )
    return states


def soft_labels_of(clients, states, settings):
    requests = [Request(round=1, sends=("soft_labels",), rows=torch.arange(NUM_TRANSFER))] * len(clients)
    return torch.stack([own["soft_labels"]["soft_labels"] for own in express(clients, states, requests, settings)])


def assert_runners_agree(clients, settings, tolerance, rounds):
    one_by_one, together = (run(fit, clients, settings, rounds) for fit in (sequential.fit, stacked.fit))
    soft_labels = soft_labels_of(clients, one_by_one, settings)
    torch.testing.assert_close(soft_labels_of(clients, together, settings), soft_labels, rtol=0, atol=tolerance)
    for first, second in zip(one_by_one, together, strict=True):
        assert list(first.parameters) == list(second.parameters)
        assert {name for name in first.objective_state if name.startswith("private")} == set()
        assert first.absorbed_round == second.absorbed_round
    start = soft_labels_of(clients, [first_state(client, settings) for client in clients], settings)
    assert ((soft_labels - start).abs().amax((1, 2)) > 1e-3).all()
    return one_by_one, together


def private_jobs(architecture, make_samples, sizes=(1, 5, 0, 17), terms=CROSS_ENTROPY):
    """Make jobs on private data of these sizes, two epochs in batches of four."""
    jobs = []
    for seed, number in enumerate(sizes):
        samples = make_samples(number, seed)
        generator = torch.Generator().manual_seed(seed)
        order = torch.stack([torch.randperm(number, generator=generator) for _ in range(2)])
        stream = Stream({"inputs": samples.inputs, "labels": samples.labels}, batch_plan(order, 4))
        parameters = architecture.initial_parameters(seed, torch.float64)
        jobs.append(FitJob(architecture, parameters, {"private": stream}, terms, OptimizerSettings(lr=0.1)))
    return jobs


def assert_same_results(results, expected, tolerance=1e-10):
    assert len(results) == len(expected)
    for result, other in zip(results, expected, strict=True):
        for own, others in (
            (result.parameters, other.parameters),
            (result.objective_state, other.objective_state),
        ):
            assert set(own) == set(others)
            for name, tensor in others.items():
                assert own[name].dtype == tensor.dtype
                torch.testing.assert_close(own[name], tensor, rtol=0, atol=tolerance)


# -- whole runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["small", "wide", "cnn", GroupNormed])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_float64_runs_of_several_rounds_agree_with_the_sequential_runner(cohort_of, make_settings, model, optimizer):
    training = TrainingSettings(2, 4, optimizer)
    assert_runners_agree(cohort_of(model), make_settings(learn=training, absorb=training), 1e-8, rounds=3)


@pytest.mark.parametrize("model", ["small", "cnn"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_one_float32_round_agrees_with_the_sequential_runner(cohort_of, make_settings, model, optimizer):
    training = TrainingSettings(2, 4, optimizer)
    settings = make_settings(dtype=torch.float32, learn=training, absorb=training)
    assert_runners_agree(cohort_of(model, torch.float32), settings, 1e-4, rounds=1)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 64])
def test_runs_agree_whatever_the_batches_leave_over(cohort_of, make_settings, batch_size):
    training = TrainingSettings(1, batch_size, OptimizerSettings("adam", lr=0.01))
    assert_runners_agree(cohort_of("small"), make_settings(learn=training, absorb=training), 1e-8, rounds=2)


def test_who_has_nothing_to_absorb_is_left_as_it_was(cohort_of, make_settings):
    clients, settings = cohort_of("small"), make_settings()
    learnt = learn(clients, [first_state(client, settings) for client in clients], 1, settings, stacked.fit)
    absorbed = run(stacked.fit, clients, settings, rounds=1)
    for row, changed in enumerate([True, False, False, True, True]):
        before, after = learnt[row].parameters, absorbed[row].parameters
        assert all(torch.equal(before[name], after[name]) for name in before) is not changed


def test_fixed_layers_and_buffers_stay_and_unused_layers_do_not_matter(cohort_of, make_settings):
    training = TrainingSettings(2, 4, OptimizerSettings("sgd", lr=0.1, weight_decay=0.1))
    clients, settings = cohort_of(PartlyFixed), make_settings(learn=training, absorb=training)
    _, states = assert_runners_agree(clients, settings, 1e-8, rounds=2)
    for client, state in zip(clients, states, strict=True):
        before = first_state(client, settings).parameters
        changed = {name for name, tensor in state.parameters.items() if not torch.equal(tensor, before[name])}
        assert changed == {"body.weight", "body.bias", "head.weight", "head.bias"}


@pytest.mark.parametrize("model", ["small", "cnn"])
def test_runs_with_prototypes_agree(cohort_of, make_settings, model):
    clients, settings = cohort_of(model), make_settings(objective=Prototype(weight=0.7))
    states = {}
    for fit in (sequential.fit, stacked.fit):
        own = [first_state(client, settings) for client in clients]
        for round in (1, 2, 3):
            own = learn(clients, own, round, settings, fit)
            expressed = express(clients, own, [Request(round=round, sends=("prototypes",))] * 5, settings)
            mean = torch.stack([shared["prototypes"]["prototypes"] for shared in expressed]).mean(0)
            tensors = {"prototypes": mean, "mask": torch.tensor([True, False, True])}
            request = Request(round=round, fused={"prototypes": tensors}, fused_round=round)
            # Client 2 receives none: it learns without prototypes beside others that have them.
            own = absorb(clients, own, [request, request, Request(round=round), request, request], settings, fit)
        states[fit] = own
    first, second = (soft_labels_of(clients, own, settings) for own in states.values())
    torch.testing.assert_close(second, first, rtol=0, atol=1e-8)
    assert evaluate(clients, states[stacked.fit], settings)[4]["personal_loss"] == pytest.approx(
        evaluate(clients, states[sequential.fit], settings)[4]["personal_loss"], abs=1e-8
    )


def test_the_memory_of_an_objective_is_each_clients_own_and_survives(cohort_of, make_settings):
    clients, settings = cohort_of("small"), make_settings(objective=RunningMean())
    one_by_one, together = assert_runners_agree(clients, settings, 1e-8, rounds=3)
    for states in (one_by_one, together):
        memories = [state.objective_state for state in states]
        # Three rounds of two epochs: 10 rows in batches of 4 are 3 steps, 5 rows are 2 steps.
        assert [own["transfer.0.batches"].item() if own else None for own in memories] == [18, None, 0, 12, 18]
        assert [own["transfer.0.samples"].item() if own else None for own in memories] == [60, None, 0, 30, 60]
    means = [
        [states[row].objective_state["transfer.0.mean"].item() for row in (0, 2, 3, 4)]
        for states in (one_by_one, together)
    ]
    assert means[0] == pytest.approx(means[1], abs=1e-10)
    assert len(set(means[0])) == 4
    assert means[0][1] == 1


# -- single fits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["small", "cnn"])
def test_both_streams_at_once_with_two_terms(architectures, make_samples, name):
    architecture, transfer, jobs = architectures[name], make_samples(9, 50), []
    terms = (Term("private", CrossEntropy()), Term("transfer", RunningMean(), weight=0.5))
    for seed, number in enumerate((5, 17, 8, 0, 3)):
        samples = make_samples(number, seed)
        plan = batch_plan(torch.arange(number).unsqueeze(0), 4)
        transfer_plan = (torch.arange(3 * len(plan)) % 9).reshape(-1, 3)
        if seed == 1:
            transfer_plan[:, 2] = -1
        soft_labels = torch.softmax(make_samples(9, seed).inputs.flatten(1)[:, :3], 1)
        streams = {
            "private": Stream({"inputs": samples.inputs, "labels": samples.labels}, plan),
            "transfer": Stream({"inputs": transfer.inputs, "soft_labels": soft_labels}, transfer_plan),
        }
        parameters = architecture.initial_parameters(seed, torch.float64)
        jobs.append(FitJob(architecture, parameters, streams, terms, OptimizerSettings("adamw", lr=0.01)))
    results = stacked.fit(jobs)
    assert_same_results(results, sequential.fit(jobs))
    assert [result.objective_state["transfer.0.batches"].item() for result in results] == [
        job.num_steps for job in jobs
    ]


def test_a_scalar_loss_is_each_clients_own(architectures, make_samples):
    jobs = private_jobs(
        architectures["wide"],
        make_samples,
        terms=(Term("private", CrossEntropy()), Term("private", Scalar(), weight=0.3)),
        sizes=(3, 5, 0, 17),
    )
    assert_same_results(stacked.fit(jobs), sequential.fit(jobs))


def test_a_client_is_trained_alike_in_every_cohort(architectures, make_samples):
    jobs = private_jobs(architectures["small"], make_samples)
    together = stacked.fit(jobs)
    for job, result in zip(jobs, together, strict=True):
        assert_same_results(stacked.fit([job]), [result], 1e-12)
    assert_same_results(stacked.fit(jobs[::-1]), together[::-1], 1e-12)


def test_without_jobs_there_are_no_results():
    assert stacked.fit([]) == []


def test_a_cohort_without_a_single_step_ends_where_it_began(architectures, make_samples):
    jobs = private_jobs(architectures["small"], make_samples, sizes=(0, 0))
    for job, result in zip(jobs, stacked.fit(jobs), strict=True):
        assert all(torch.equal(result.parameters[name], tensor) for name, tensor in job.parameters.items())


def test_a_memory_that_came_in_is_continued(architectures, make_samples):
    transfer, soft_labels = make_samples(9, 50).inputs, torch.full((9, 3), 1 / 3, dtype=torch.float64)
    jobs = [
        FitJob(
            architectures["small"],
            architectures["small"].initial_parameters(seed, torch.float64),
            {"transfer": Stream({"inputs": transfer, "soft_labels": soft_labels}, torch.tensor([[0, 1], [2, -1]]))},
            (Term("transfer", RunningMean()),),
            OptimizerSettings(),
            memory,
        )
        for seed, memory in enumerate(
            [
                {},
                {
                    "transfer.0.mean": torch.tensor(3.0, dtype=torch.float64),
                    "transfer.0.batches": torch.tensor(40),
                    "transfer.0.samples": torch.tensor(7),
                },
            ]
        )
    ]
    results = stacked.fit(jobs)
    assert [result.objective_state["transfer.0.batches"].item() for result in results] == [2, 42]
    assert [result.objective_state["transfer.0.samples"].item() for result in results] == [3, 10]
    assert_same_results(results, sequential.fit(jobs))


# -- what must stay apart ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["small", "cnn"])
def test_a_sample_outside_the_plan_never_enters_not_even_as_padding(architectures, make_samples, name, value):
    jobs = []
    for job in private_jobs(architectures[name], make_samples, sizes=(1, 5, 17)):
        stream = job.streams["private"]
        bad = torch.full((1, 1, 4, 4), value, dtype=torch.float64)
        tensors = {
            "inputs": torch.cat([bad, stream.tensors["inputs"]]),
            "labels": torch.cat([torch.zeros(1, dtype=torch.int64), stream.tensors["labels"]]),
        }
        plan = torch.where(stream.plan >= 0, stream.plan + 1, -1)
        jobs.append((job, replace(job, streams={"private": Stream(tensors, plan)})))
    expected, results = (stacked.fit(list(own)) for own in zip(*jobs, strict=True))
    assert_same_results(results, expected, 0)


@pytest.mark.parametrize("name", ["small", "cnn"])
def test_a_client_that_diverges_does_not_touch_the_others(architectures, make_samples, name):
    jobs = private_jobs(architectures[name], make_samples, sizes=(5, 16, 17))
    expected = stacked.fit(jobs)
    jobs[1].streams["private"].tensors["inputs"][3] = math.nan
    results = stacked.fit(jobs)
    assert not torch.isfinite(results[1].parameters["head.bias"]).any()
    assert_same_results([results[0], results[2]], [expected[0], expected[2]], 1e-12)


def test_constants_belong_to_their_own_client(architectures, make_samples):
    jobs = private_jobs(
        architectures["small"], make_samples, sizes=(5, 5), terms=(Term("private", Prototype(weight=3.0)),)
    )
    jobs = [
        replace(
            job,
            streams={
                "private": replace(
                    job.streams["private"],
                    constants={
                        "prototypes": torch.full((3, 5), float(value), dtype=torch.float64),
                        "prototype_mask": torch.tensor([True, True, value == 1]),
                    },
                )
            },
        )
        for value, job in enumerate(jobs)
    ]
    results = stacked.fit(jobs)
    assert_same_results(results, sequential.fit(jobs))
    swapped = [
        replace(job, streams={"private": replace(job.streams["private"], constants=other.streams["private"].constants)})
        for job, other in zip(jobs, jobs[::-1], strict=True)
    ]
    assert not torch.equal(stacked.fit(swapped)[0].parameters["body.1.bias"], results[0].parameters["body.1.bias"])


@pytest.mark.parametrize("name", ["small", "cnn"])
def test_what_it_was_given_is_left_as_it_was_and_results_share_no_memory(architectures, make_samples, name):
    jobs = private_jobs(architectures[name], make_samples)
    before = [{key: tensor.clone() for key, tensor in job.parameters.items()} for job in jobs]
    generator = torch.get_rng_state()
    results = stacked.fit(jobs)
    assert torch.equal(torch.get_rng_state(), generator)
    for job, parameters in zip(jobs, before, strict=True):
        assert all(torch.equal(job.parameters[key], tensor) for key, tensor in parameters.items())
    for result in results:
        for tensor in result.parameters.values():
            assert not tensor.requires_grad
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_gradients_are_those_of_each_clients_own_mean_not_of_a_mean_over_clients(architectures, make_samples):
    architecture = architectures["small"]
    jobs = private_jobs(architecture, make_samples, sizes=(3, 3))
    one_step = [
        replace(
            job,
            streams={"private": replace(job.streams["private"], plan=job.streams["private"].plan[:1])},
            optimizer=OptimizerSettings("sgd", lr=1.0, momentum=0.0),
        )
        for job in jobs
    ]
    for job, result in zip(one_step, stacked.fit(one_step), strict=True):
        model = architecture.module().double()
        model.load_state_dict(job.parameters)
        samples = job.streams["private"].tensors
        functional.cross_entropy(model(samples["inputs"]).logits, samples["labels"]).backward()
        for name, parameter in model.named_parameters():
            expected = job.parameters[name] - parameter.grad
            torch.testing.assert_close(result.parameters[name], expected, rtol=0, atol=1e-14)


def test_pixels_are_trained_on_as_the_numbers_from_0_to_1_that_they_stand_for(architectures, make_samples):
    def jobs(as_stored):
        for seed, number in enumerate((7, 5)):
            own = make_samples(number, seed)
            pixels = (torch.arange(own.inputs.numel()).reshape(own.inputs.shape) * 37 % 256).to(torch.uint8)
            plan = batch_plan(torch.arange(number).unsqueeze(0), 3)
            inputs = pixels if as_stored else pixels.double() / 255
            stream = Stream({"inputs": inputs, "labels": own.labels}, plan)
            architecture = architectures["small"]
            parameters = architecture.initial_parameters(seed, torch.float64)
            yield FitJob(architecture, parameters, {"private": stream}, CROSS_ENTROPY, OPTIMIZERS[1])

    for stored, numbers in zip(stacked.fit([*jobs(True)]), stacked.fit([*jobs(False)]), strict=True):
        for name, tensor in numbers.parameters.items():
            assert torch.equal(stored.parameters[name], tensor)


@pytest.mark.parametrize("optimizer", OPTIMIZERS[:4], ids=str)
def test_a_proximal_term_is_the_same_for_clients_together_and_alone(architectures, make_samples, optimizer):
    jobs = []
    for seed, number in enumerate((9, 5)):
        own = make_samples(number, seed)
        plan = batch_plan(torch.arange(number).repeat(2, 1), 4)
        stream = Stream({"inputs": own.inputs, "labels": own.labels}, plan)
        parameters = architectures["small"].initial_parameters(seed, torch.float64)
        job = FitJob(architectures["small"], parameters, {"private": stream}, CROSS_ENTROPY, optimizer, proximal=0.3)
        jobs.append(job)
    for together, alone in zip(stacked.fit(jobs), sequential.fit(jobs), strict=True):
        for name, tensor in alone.parameters.items():
            torch.testing.assert_close(together.parameters[name], tensor, rtol=0, atol=1e-10)


class FixedHead(PartlyFixed):
    """A model whose head is not trained."""

    def __init__(self):
        super().__init__()
        self.head.requires_grad_(False)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("model", ["small", "cnn", PartlyFixed, FixedHead])
def test_features_that_enter_at_the_head_teach_clients_together_as_alone(cohort_of, model, optimizer):
    jobs = []
    for seed, client in enumerate(cohort_of(model)):
        samples, width = client.data.train, client.architecture.embedding_size
        plan = batch_plan(torch.arange(len(samples)).repeat(2, 1), 4)
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(3 + seed, width, generator=generator, dtype=torch.float64)
        head_plan = torch.randint(-1, 3, (len(plan), 5), generator=generator).sort(1, descending=True).values
        streams = {
            "private": Stream({"inputs": samples.inputs, "labels": samples.labels}, plan),
            "head": Stream({"features": features, "labels": torch.arange(3 + seed) % 3}, head_plan),
        }
        terms = (*CROSS_ENTROPY, Term("head", CrossEntropy(), weight=0.7))
        parameters = client.architecture.initial_parameters(seed, torch.float64)
        jobs.append(FitJob(client.architecture, parameters, streams, terms, optimizer))
    together = stacked.fit(jobs)
    assert_same_results(together, sequential.fit(jobs))
    without = [replace(job, streams={"private": job.streams["private"]}, terms=CROSS_ENTROPY) for job in jobs]
    assert (model is FixedHead) == all(
        torch.equal(one.parameters["head.weight"], other.parameters["head.weight"])
        for one, other in zip(together, stacked.fit(without), strict=True)
    )


def test_a_cohort_that_memory_is_too_small_for_is_trained_in_halves(architectures, make_samples, monkeypatch):
    jobs = private_jobs(architectures["cnn"], make_samples)
    expected, sizes, run = stacked.fit(jobs), [], stacked._Training.run

    def run_out(training):
        sizes.append(len(training._jobs))
        if len(training._jobs) > 1 and training._jobs[-1] is jobs[-1]:
            raise torch.OutOfMemoryError
        return run(training)

    monkeypatch.setattr(stacked._Training, "run", run_out)
    assert_same_results(stacked.fit(jobs), expected, 1e-12)
    assert sizes == [4, 2, 2, 1, 1]


class OtherDevice(Device):
    """The processor, which is computed on as another device is."""

    @property
    def is_cuda(self):
        return True


@pytest.mark.parametrize(
    ("limits", "pays"),
    [
        ({}, True),
        ({"FEWEST_RECORDED_STEPS": 9}, True),
        ({"FEWEST_RECORDED_STEPS": 10}, False),
        ({"LARGEST_RECORDED": 16 * 400}, True),
        ({"LARGEST_RECORDED": 16 * 400 - 1}, False),
    ],
    ids=str,
)
def test_many_small_steps_are_recorded_and_only_on_another_device(
    architectures, make_samples, monkeypatch, limits, pays
):
    for name, value in limits.items():
        monkeypatch.setattr(stacked, name, value)
    # Four clients take batches of four, for up to ten steps.
    architecture = replace(architectures["small"], flops=400)
    jobs = [replace(job, architecture=architecture) for job in private_jobs(architecture, make_samples)]
    assert stacked._Training(jobs, OtherDevice())._pays_to_record() == pays
    assert not stacked._Training(jobs, Device())._pays_to_record()


def test_nothing_of_a_training_stays_when_it_is_over(architectures, make_samples):
    training = stacked._Training(private_jobs(architectures["cnn"], make_samples), Device())
    gc.disable()
    try:
        training.run()
        left = weakref.ref(training)
        del training
        assert left() is None
    finally:
        gc.enable()


def test_a_single_client_that_memory_is_too_small_for_is_an_error(architectures, make_samples, monkeypatch):
    def run_out(training):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(stacked._Training, "run", run_out)
    with pytest.raises(torch.OutOfMemoryError):
        stacked.fit(private_jobs(architectures["cnn"], make_samples))
