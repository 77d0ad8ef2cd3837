from dataclasses import replace
from functools import partial

import pytest
import torch

from fedfuse.client.fit import FitJob, Stream, Term, batch_plan
from fedfuse.configuration import OptimizerSettings
from fedfuse.device import Device, computing_on
from fedfuse.engine import perceptron, sequential, stacked
from fedfuse.models.architecture import describe
from fedfuse.models.logistic_regression import LogisticRegression
from fedfuse.models.mlp import MLP
from fedfuse.objectives.cross_entropy import CrossEntropy
from fedfuse.objectives.kd import KD

SHAPE = (1, 4, 4)
OPTIMIZERS = [
    OptimizerSettings("sgd", lr=0.1, momentum=0.0),
    OptimizerSettings("sgd", lr=0.1, momentum=0.9),
    OptimizerSettings("sgd", lr=0.1, momentum=0.5, weight_decay=0.05),
    OptimizerSettings("adam", lr=0.01, weight_decay=0.05),
    OptimizerSettings("adamw", lr=0.01, weight_decay=0.1),
    OptimizerSettings("rmsprop", lr=0.01, momentum=0.5, weight_decay=0.05),
]
MODELS = {
    "mlp": partial(MLP, SHAPE, 3, hidden=(7, 6), embedding_size=4),
    "logistic regression": partial(LogisticRegression, SHAPE, 3),
}


class Squared:
    """A loss without a closed form here: the mean square of the logits' distance from the labels, and of features."""

    needs = frozenset({"labels"})
    per_sample = True

    def initial_state(self):
        return {"batches": torch.tensor(0)}

    def __call__(self, outputs, batch, mask, state):
        target = torch.nn.functional.one_hot(batch["labels"], outputs.logits.shape[1])
        losses = (outputs.logits - target).square().sum(1) + 0.1 * outputs.features.square().sum(1)
        return losses, {"batches": state["batches"] + 1}


class NotQuiteKD(KD):
    """A kind of distillation that is not the one whose gradient is known."""

    def __call__(self, outputs, batch, mask, state):
        losses, state = super().__call__(outputs, batch, mask, state)
        return losses.square(), state


TERMS = {
    "labels": (Term("private", CrossEntropy(), weight=0.8),),
    "soft labels": (Term("transfer", KD(temperature=3.0)),),
    "soft labels, sharpened": (Term("transfer", KD(temperature=0.05), weight=1e-3),),
    "both": (Term("private", CrossEntropy()), Term("transfer", KD(), weight=0.5)),
    "twice on one stream": (Term("private", CrossEntropy()), Term("private", KD(2.0), 0.5, on_fused_head=True)),
    "fused head only": (Term("transfer", KD(), on_fused_head=True),),
    "another objective": (Term("private", Squared()), Term("transfer", NotQuiteKD(), on_fused_head=True)),
    "one with the other": (Term("private", CrossEntropy()), Term("private", Squared(), weight=0.3)),
    "at the head": (Term("private", CrossEntropy()), Term("head", CrossEntropy(), 0.7), Term("head", KD(), 0.2)),
    "another objective at the head": (Term("transfer", KD()), Term("head", Squared(), 0.7)),
}


def make_jobs(architecture, terms, optimizer=OPTIMIZERS[1], sizes=(1, 5, 0, 17, 9), dtype=torch.float64, **others):
    """Make ragged jobs with weights, scales, padding, and soft labels of their own for samples that all share."""
    generator = torch.Generator().manual_seed(5)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    shared, jobs = draw(9, *SHAPE), []
    for client, number in enumerate(sizes):
        order = torch.stack([torch.randperm(number, generator=generator) for _ in range(2)])
        plan = batch_plan(order, 4)
        visits = torch.randint(9, (len(plan), 3), generator=generator)
        visits[:, 2] = torch.where(torch.arange(len(plan)) % 2 == 0, -1, visits[:, 2])
        on_head = torch.randint(6, (len(plan), 5), generator=generator)
        scale = torch.tensor(0.5 + client, dtype=dtype)
        streams = {
            "private": Stream(
                {
                    "inputs": draw(number, *SHAPE),
                    "labels": torch.randint(3, (number,), generator=generator),
                    "soft_labels": torch.softmax(draw(number, 3), 1),
                    "weights": draw(number).abs(),
                },
                plan,
            ),
            "transfer": Stream(
                {"inputs": shared, "soft_labels": torch.softmax(3 * draw(9, 3), 1)}, visits, {"scale": scale}
            ),
            "head": Stream(
                {
                    "features": draw(6, architecture.embedding_size),
                    "labels": torch.randint(3, (6,), generator=generator),
                    "soft_labels": torch.softmax(draw(6, 3), 1),
                },
                on_head,
            ),
        }
        used = {term.stream for term in terms}
        streams = {name: stream for name, stream in streams.items() if name in used}
        parameters = architecture.initial_parameters(client, dtype)
        jobs.append(FitJob(architecture, parameters, streams, terms, optimizer, **others))
    return jobs


def assert_agree(jobs, tolerance=1e-10):
    results = perceptron.fit(jobs)
    for job, one, other in zip(jobs, results, sequential.fit(jobs), strict=True):
        assert list(one.parameters) == list(other.parameters)
        assert one.objective_state == other.objective_state
        for name, tensor in other.parameters.items():
            torch.testing.assert_close(one.parameters[name], tensor, rtol=0, atol=tolerance)
        changed = any(not torch.equal(one.parameters[name], tensor) for name, tensor in job.parameters.items())
        assert changed == (job.num_steps > 0)


@pytest.mark.parametrize("fused_head", [False, True])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("terms", TERMS)
def test_every_loss_teaches_clients_together_as_alone(model, terms, fused_head):
    architecture = describe(model, MODELS[model], SHAPE, fused_head=fused_head)
    assert_agree(make_jobs(architecture, TERMS[terms]))


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("proximal", [0.0, 0.3])
@pytest.mark.parametrize("terms", ["both", "fused head only", "another objective", "at the head"])
def test_every_optimiser_moves_clients_together_as_alone(optimizer, proximal, terms):
    # A head that nothing is learnt about must not decay either.
    architecture = describe("mlp", MODELS["mlp"], SHAPE, fused_head=True)
    assert_agree(make_jobs(architecture, TERMS[terms], optimizer, proximal=proximal))


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_float32_agrees_up_to_its_rounding(optimizer):
    architecture = describe("mlp", MODELS["mlp"], SHAPE)
    jobs = make_jobs(architecture, TERMS["both"], optimizer, dtype=torch.float32)
    assert_agree(jobs, 1e-4)
    assert all(tensor.dtype == torch.float32 for tensor in perceptron.fit(jobs)[0].parameters.values())


@pytest.mark.parametrize("terms", ["both", "another objective"])
def test_tiles_of_every_height_give_the_same(monkeypatch, terms):
    architecture = describe("mlp", MODELS["mlp"], SHAPE)
    jobs = make_jobs(architecture, TERMS[terms])
    expected, heights = perceptron.fit(jobs), []
    tile = perceptron._Tile

    def note(own):
        heights.append(len(own))
        return tile(own)

    monkeypatch.setattr(perceptron, "_Tile", note)
    for size in (0, 2, 3):
        monkeypatch.setattr(perceptron, "TILE_BYTES", size * perceptron._bytes_of(jobs[0]))
        for result, other in zip(perceptron.fit(jobs), expected, strict=True):
            for name, tensor in other.parameters.items():
                torch.testing.assert_close(result.parameters[name], tensor, rtol=0, atol=1e-12)
    assert heights == [1, 1, 1, 1, 1, 2, 2, 1, 3, 2]


def test_clients_with_equally_many_steps_are_trained_side_by_side(monkeypatch):
    jobs = make_jobs(describe("mlp", MODELS["mlp"], SHAPE), TERMS["labels"], sizes=(17, 1, 16, 2))
    tile, steps = perceptron._Tile, []
    monkeypatch.setattr(perceptron, "TILE_BYTES", 2 * perceptron._bytes_of(jobs[0]))
    monkeypatch.setattr(perceptron, "_Tile", lambda own: steps.append([job.num_steps for job in own]) or tile(own))
    perceptron.fit(jobs)
    assert steps == [[2, 2], [8, 10]]


def test_a_client_that_diverges_does_not_touch_the_others():
    jobs = make_jobs(describe("mlp", MODELS["mlp"], SHAPE), TERMS["labels"])
    expected = perceptron.fit(jobs)
    jobs[3].streams["private"].tensors["inputs"][3] = torch.nan
    results = perceptron.fit(jobs)
    assert not torch.isfinite(results[3].parameters["head.bias"]).any()
    for row in (0, 1, 2, 4):
        assert all(torch.equal(results[row].parameters[name], own) for name, own in expected[row].parameters.items())


def test_what_it_was_given_is_left_as_it_was():
    jobs = make_jobs(describe("mlp", MODELS["mlp"], SHAPE), TERMS["both"])
    tensors = [own for job in jobs for own in job.parameters.values()]
    tensors += [own for job in jobs for stream in job.streams.values() for own in stream.tensors.values()]
    before = [own.clone() for own in tensors]
    perceptron.fit(jobs)
    assert all(map(torch.equal, tensors, before))


class OtherDevice(Device):
    """The processor, which is computed on as another device is."""

    @property
    def is_cuda(self):
        return True


def test_the_stacked_runner_trains_perceptrons_this_way_on_the_processor_only(monkeypatch, architectures):
    taken = []
    monkeypatch.setattr(perceptron, "fit", lambda jobs: taken.append(len(jobs)))
    monkeypatch.setattr(stacked, "_Training", lambda jobs, device: pytest.fail("not this way"))
    jobs = make_jobs(architectures["small"], TERMS["labels"])
    stacked.fit(jobs)
    assert taken == [5]
    others = []

    class Training:
        def __init__(self, jobs, device):
            others.append(len(jobs))

        def run(self):
            return []

    monkeypatch.setattr(stacked, "_Training", Training)
    with computing_on(OtherDevice()):
        stacked.fit(jobs)
    stacked.fit([replace(job, architecture=architectures["cnn"]) for job in jobs])
    assert (taken, others) == ([5], [5, 5])


def test_no_step_computes_padding_that_all_clients_share(monkeypatch):
    widths, passes = [], perceptron.Passes

    class Recording(passes):
        def forward(self, inputs):
            widths.append(inputs.shape[1])
            return super().forward(inputs)

    monkeypatch.setattr(perceptron, "Passes", Recording)
    assert_agree(make_jobs(describe("mlp", MODELS["mlp"], SHAPE), TERMS["labels"], sizes=(5, 6)))
    assert widths == [4, 2, 4, 2]
