import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call

from fedfuse.client.fit import FitJob, Stream, Term, batch_plan
from fedfuse.configuration import OptimizerSettings
from fedfuse.engine import sequential, stacked
from fedfuse.models.architecture import describe
from fedfuse.models.fused_head import with_fused_head
from fedfuse.models.mlp import MLP
from fedfuse.objectives.cross_entropy import CrossEntropy
from fedfuse.objectives.kd import KD

SHAPE, NUM_CLASSES, WIDTH = (1, 4, 4), 3, 5
RUNNERS = pytest.mark.parametrize("fit", [sequential.fit, stacked.fit], ids=["sequential", "stacked"])
FIRST, SECOND = {"head.weight", "head.bias"}, {"fused_head.weight", "fused_head.bias"}
BODY = {"body.1.weight", "body.1.bias", "body.3.weight", "body.3.bias"}

build = partial(MLP, SHAPE, NUM_CLASSES, hidden=(6,), embedding_size=WIDTH)


class LogitsOnly(nn.Module):
    """A model that tells nothing of its features."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, WIDTH), nn.Tanh())
        self.last = nn.Linear(WIDTH, NUM_CLASSES)

    def forward(self, inputs):
        return self.last(self.layers(inputs))


@pytest.fixture(params=[build, LogitsOnly], ids=["mlp", "logits_only"])
def builder(request):
    return request.param


@pytest.fixture
def architecture():
    return describe("mlp", build, SHAPE, NUM_CLASSES, fused_head=True)


# -- the module --------------------------------------------------------------------------------------------------------


def test_a_models_own_parameters_are_drawn_as_without_the_second_head(builder):
    without, with_one = (describe("m", builder, SHAPE, NUM_CLASSES, fused_head) for fused_head in (False, True))
    for seed in (0, 1):
        own, more = (one.initial_parameters(seed, torch.float64) for one in (without, with_one))
        assert more.keys() - own.keys() == SECOND
        assert all(torch.equal(more[name], tensor) for name, tensor in own.items())
    assert not torch.equal(
        more["fused_head.weight"], with_one.initial_parameters(0, torch.float64)["fused_head.weight"]
    )


def test_the_second_head_is_a_linear_layer_of_the_features_and_the_rest_answers_as_before(builder):
    without, with_one = (describe("m", builder, SHAPE, NUM_CLASSES, fused_head) for fused_head in (False, True))
    parameters, inputs = with_one.initial_parameters(0, torch.float32), torch.randn(7, *SHAPE)
    module, plain = with_one.module(), without.module()
    module.load_state_dict(parameters)
    plain.load_state_dict({name: tensor for name, tensor in parameters.items() if name not in SECOND})
    outputs, usual = module(inputs), plain(inputs)
    expected = usual.features @ parameters["fused_head.weight"].T + parameters["fused_head.bias"]
    torch.testing.assert_close(outputs.fused_logits, expected)
    assert torch.equal(outputs.logits, usual.logits)
    assert torch.equal(outputs.features, usual.features)
    assert usual.fused_logits is None


def test_what_is_known_of_the_architecture_counts_the_second_head(builder):
    without, with_one = (describe("m", builder, SHAPE, NUM_CLASSES, fused_head) for fused_head in (False, True))
    assert with_one.signature != without.signature
    assert with_one.num_parameters == without.num_parameters + WIDTH * NUM_CLASSES + NUM_CLASSES
    assert with_one.flops == without.flops + 2 * WIDTH * NUM_CLASSES
    assert with_one.shapes["fused_head.weight"] == (NUM_CLASSES, WIDTH)
    assert with_one.embedding_size == without.embedding_size == WIDTH
    assert with_one.has_head == without.has_head
    assert with_one.can_be_stacked


def test_the_parameters_of_another_client_can_stand_in(architecture):
    module, inputs = architecture.module().double(), torch.randn(4, *SHAPE, dtype=torch.float64)
    one, other = (architecture.initial_parameters(seed, torch.float64) for seed in (1, 2))
    changed = one | {name: other[name] for name in SECOND}
    answers = {}
    for key, parameters in {"one": one, "changed": changed}.items():
        answers[key] = functional_call(module, parameters, (inputs,))
        expected = nn.functional.linear(
            answers[key].features, parameters["fused_head.weight"], parameters["fused_head.bias"]
        )
        assert torch.equal(answers[key].fused_logits, expected)
    assert torch.equal(answers["one"].logits, answers["changed"].logits)
    assert not torch.allclose(answers["one"].fused_logits, answers["changed"].fused_logits)


def test_the_models_of_many_clients_can_be_run_at_once(architecture):
    module = architecture.module().double()
    inputs = torch.randn(3, 4, *SHAPE, dtype=torch.float64)
    each = [architecture.initial_parameters(seed, torch.float64) for seed in range(3)]
    together = {name: torch.stack([own[name] for own in each]) for name in each[0]}
    outputs = torch.vmap(lambda own, x: functional_call(module, own, (x,)))(together, inputs)
    for row, own in enumerate(each):
        alone = functional_call(module, own, (inputs[row],))
        torch.testing.assert_close(outputs.fused_logits[row], alone.fused_logits, rtol=0, atol=1e-14)
        torch.testing.assert_close(outputs.logits[row], alone.logits, rtol=0, atol=1e-14)


def test_it_can_be_sent_to_another_process(architecture):
    sent = pickle.loads(pickle.dumps(architecture))
    own, others = (one.initial_parameters(0, torch.float32) for one in (architecture, sent))
    assert own.keys() == others.keys() >= SECOND
    module = pickle.loads(pickle.dumps(with_fused_head(build, WIDTH, NUM_CLASSES)))
    outputs = module(torch.randn(2, *SHAPE))
    assert torch.equal(outputs.fused_logits, module.fused_head(outputs.features))


# -- training ----------------------------------------------------------------------------------------------------------


def make_jobs(architecture, make_samples, terms, sizes=(1, 5, 0, 9), lr=0.1):
    """Make jobs of two epochs on private samples with labels, and on others with soft labels."""
    jobs = []
    for seed, number in enumerate(sizes):
        private, transfer = make_samples(number, seed), make_samples(number, 100 + seed)
        generator = torch.Generator().manual_seed(seed)
        plan = batch_plan(torch.stack([torch.randperm(number, generator=generator) for _ in range(2)]), 4)
        soft_labels = torch.softmax(2 * torch.randn(number, NUM_CLASSES, generator=generator, dtype=torch.float64), 1)
        streams = {
            "private": Stream({"inputs": private.inputs, "labels": private.labels}, plan),
            "transfer": Stream({"inputs": transfer.inputs, "soft_labels": soft_labels}, plan),
        }
        named = {name: stream for name, stream in streams.items() if any(term.stream == name for term in terms)}
        parameters = architecture.initial_parameters(seed, torch.float64)
        optimizer = OptimizerSettings(lr=lr, momentum=0.5, weight_decay=0.1)
        jobs.append(FitJob(architecture, parameters, named, terms, optimizer))
    return jobs


def changed(job, result):
    return {name for name, tensor in job.parameters.items() if not torch.equal(result.parameters[name], tensor)}


LABELS, SOFT_LABELS = Term("private", CrossEntropy()), Term("transfer", KD(), on_fused_head=True)


@RUNNERS
@pytest.mark.parametrize(
    ("terms", "trained"),
    [
        ((LABELS,), BODY | FIRST),
        ((SOFT_LABELS,), BODY | SECOND),
        ((LABELS, SOFT_LABELS), BODY | FIRST | SECOND),
        ((Term("transfer", KD()),), BODY | FIRST),
    ],
    ids=["labels", "soft_labels", "both", "soft_labels_on_the_first_head"],
)
def test_a_loss_trains_the_head_that_it_judges_and_leaves_the_other(architecture, make_samples, fit, terms, trained):
    jobs = make_jobs(architecture, make_samples, terms)
    results = fit(jobs)
    assert [changed(job, result) for job, result in zip(jobs, results, strict=True)] == [
        trained,
        trained,
        set(),
        trained,
    ]


@pytest.mark.parametrize("terms", [(LABELS,), (SOFT_LABELS,), (LABELS, SOFT_LABELS)])
def test_both_runners_train_two_heads_alike(architecture, make_samples, terms):
    jobs = make_jobs(architecture, make_samples, terms)
    for one, other in zip(sequential.fit(jobs), stacked.fit(jobs), strict=True):
        for name, tensor in one.parameters.items():
            torch.testing.assert_close(other.parameters[name], tensor, rtol=0, atol=1e-12)


@RUNNERS
def test_without_a_second_head_a_loss_that_is_meant_for_it_judges_the_only_one(make_samples, fit):
    architecture = describe("mlp", build, SHAPE, NUM_CLASSES)
    meant, plain = (
        fit(make_jobs(architecture, make_samples, (Term("transfer", KD(), on_fused_head=on_fused_head),)))
        for on_fused_head in (True, False)
    )
    for one, other in zip(meant, plain, strict=True):
        assert all(torch.equal(other.parameters[name], tensor) for name, tensor in one.parameters.items())


def test_the_second_head_learns_from_soft_labels_what_a_first_head_would(make_samples):
    """With equal weights the two heads are interchangeable: which of them a loss judges makes no other difference."""
    architecture = describe("mlp", build, SHAPE, NUM_CLASSES, fused_head=True)
    swapped = []
    for job in make_jobs(architecture, make_samples, (SOFT_LABELS,)):
        parameters = dict(job.parameters)
        for kind in ("weight", "bias"):
            parameters[f"fused_head.{kind}"] = parameters[f"head.{kind}"]
        swapped.append((job, parameters))
    on_second = sequential.fit([FitJob(j.architecture, p, j.streams, j.terms, j.optimizer) for j, p in swapped])
    first = (Term("transfer", KD()),)
    on_first = sequential.fit([FitJob(j.architecture, p, j.streams, first, j.optimizer) for j, p in swapped])
    for one, other in zip(on_second, on_first, strict=True):
        for kind in ("weight", "bias"):
            assert torch.equal(one.parameters[f"fused_head.{kind}"], other.parameters[f"head.{kind}"])
        assert all(torch.equal(one.parameters[name], other.parameters[name]) for name in BODY)
