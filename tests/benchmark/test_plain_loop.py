import pytest
import torch

from fedfuse.benchmark import plain_loop
from fedfuse.benchmark.cells import Cell
from fedfuse.benchmark.jobs import make_jobs
from fedfuse.engine import sequential


class Turn:
    def take_all(self, operations, work):
        self.result = work()


@pytest.mark.parametrize("work", ["training", "distillation"])
def test_it_trains_as_fedfuse_does(work):
    (job,) = make_jobs(Cell("mlp64", work, 1, 1))
    (stream,) = job.streams.values()
    batches = [rows[rows >= 0] for rows in stream.plan]
    module = job.architecture.module()
    module.load_state_dict(job.parameters)
    plain_loop.train_all([module], [[tuple(own[rows] for own in stream.tensors.values()) for rows in batches]])
    (expected,) = sequential.fit([job])
    for name, value in module.state_dict().items():
        assert torch.allclose(value, expected.parameters[name], atol=1e-5), name


@pytest.mark.parametrize(("work", "sizes"), [("training", [200]), ("distillation", [500])])
def test_every_client_goes_through_all_its_samples_in_batches(work, sizes, monkeypatch):
    seen = []

    def train_all(modules, loaders):
        seen.append([[len(inputs) for inputs, _ in loader] for loader in loaders])

    monkeypatch.setattr(plain_loop, "train_all", train_all)
    plain_loop.compete(Cell("mlp64", work, 2, 1), Turn())
    (of_clients,) = seen
    assert [sum(batches) for batches in of_clients] == sizes * 2
    assert all(size == 32 for batches in of_clients for size in batches[:-1])


def test_a_round_trains_mixes_distils_and_tests(monkeypatch):
    trained, mixed, tested = [], [], []
    mix = plain_loop.mix

    def train_all(modules, loaders):
        trained.append([sum(len(targets) for _, targets in loader) for loader in loaders])

    def noted_mix(soft_labels, mask, relevance):
        mixed.append(tuple(soft_labels.shape))
        assert torch.allclose(relevance.sum(1), torch.ones(3))
        return mix(soft_labels, mask, relevance)

    monkeypatch.setattr(plain_loop, "train_all", train_all)
    monkeypatch.setattr(plain_loop, "mix", noted_mix)
    monkeypatch.setattr(plain_loop, "_test", lambda module, loaders: tested.append(len(loaders)))
    plain_loop.compete(Cell("mlp64", "round", 3, 1), Turn())
    assert trained == [[200] * 3, [500] * 3]
    assert mixed == [(3, 500, 10)]
    assert tested == [2, 2, 2]
