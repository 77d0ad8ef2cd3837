import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fedfuse.benchmark.cells import MODELS, Cell
from fedfuse.benchmark.jobs import architecture_of, make_jobs, operations_of
from fedfuse.benchmark.plain_loop import compete
from fedfuse.engine import sequential


class CountedTurn:
    def take_all(self, operations, work):
        self.told = operations
        with FlopCounterMode(display=False) as counter:
            work()
        self.counted = counter.get_total_flops()


def test_training_is_on_samples_of_each_clients_own():
    first, second = make_jobs(Cell("mlp784", "training", 2, 1))
    stream = first.streams["private"]
    assert stream.tensors["inputs"].shape == (200, 784)
    assert stream.plan.shape == (7, 32)
    assert sorted(stream.plan[stream.plan >= 0].tolist()) == list(range(200))
    assert not torch.equal(stream.tensors["inputs"], second.streams["private"].tensors["inputs"])
    assert (first.optimizer.name, first.optimizer.lr, first.optimizer.momentum) == ("sgd", 0.1, 0.5)


def test_distillation_is_of_soft_labels_of_each_clients_own_for_the_same_samples():
    first, second = (job.streams["transfer"].tensors for job in make_jobs(Cell("mlp64", "distillation", 2, 1)))
    assert first["inputs"] is second["inputs"]
    assert first["soft_labels"].shape == (500, 10)
    assert torch.allclose(first["soft_labels"].sum(1), torch.ones(500))
    assert not torch.equal(first["soft_labels"], second["soft_labels"])


@pytest.mark.parametrize("model", MODELS)
def test_every_model_takes_a_sample_and_can_be_trained(model):
    architecture = architecture_of(model)
    assert architecture.module()(torch.randn(2, *MODELS[model].shape)).logits.shape == (2, 10)


def test_the_models_are_as_wide_as_they_are_named():
    weights = [shape for name, shape in architecture_of("mlp64").shapes.items() if name.endswith("weight")]
    assert weights == [(64, 64), (32, 64), (10, 32)]
    weights = [shape for name, shape in architecture_of("mlp784").shapes.items() if name.endswith("weight")]
    assert weights == [(200, 784), (10, 200)]


@pytest.mark.parametrize("work", ["training", "distillation", "round"])
def test_the_operations_are_those_of_the_passes_but_for_the_inputs_of_the_first_layer(work):
    turn = CountedTurn()
    compete(Cell("mlp64", work, 2, 1), turn)
    samples = {"training": 200, "distillation": 500, "round": 700}[work]
    fusing = 2 * 2 * 2 * 500 * 10 if work == "round" else 0  # each of two listeners takes from each of two clients
    of_the_first_layer = 2 * 64 * 64 * samples * 2
    found = turn.counted + of_the_first_layer
    assert turn.told <= found <= turn.told + 2 * fusing


def test_the_operations_grow_with_the_clients():
    assert operations_of(Cell("lenet", "training", 6, 1)) == 3 * operations_of(Cell("lenet", "training", 2, 1))


def test_jobs_can_be_trained():
    (result,) = sequential.fit(make_jobs(Cell("mlp64", "distillation", 1, 1)))
    assert all(torch.isfinite(tensor).all() for tensor in result.parameters.values())
