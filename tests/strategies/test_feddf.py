from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from fedfuse.configuration import OptimizerSettings, TrainingSettings
from fedfuse.knowledge import KnowledgeBatch, WeightStack
from fedfuse.models.architecture import describe
from fedfuse.models.mlp import MLP
from fedfuse.server import Server
from fedfuse.transfer.all import AllRows
from strategies.feddf import FedDF, average, ensemble_logits

SMALL = partial(MLP, input_shape=(3,), num_classes=4, hidden=(5,))
LARGE = partial(MLP, input_shape=(3,), num_classes=4, hidden=(8, 6))
SGD = OptimizerSettings("sgd", lr=0.1)


class Normalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 4))

    def forward(self, inputs):
        return self.layers(inputs)


def make_server(*builders, epochs=3, optimizer=SGD, num_transfer=21):
    architectures = [describe(f"model {number}", build, (3,)) for number, build in enumerate(builders)]
    return Server(
        seed=4,
        transfer_inputs=torch.randn(num_transfer, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
        transfer_digest="digest",
        class_names=("a", "b", "c", "d"),
        architectures={architecture.signature: architecture for architecture in architectures},
        dtype=torch.float64,
        transfer_rows=AllRows(),
        training=TrainingSettings(epochs, 8, optimizer),
    )


def client_weights(server, kind, seed):
    """Weights of one client, of the architecture of this number."""
    architecture = list(server.architectures.values())[kind]
    return architecture.initial_parameters(seed, torch.float64)


def batch(server, kinds, weights=None, counts=None, client_ids=None):
    """Clients of these kinds of architecture, each with other weights."""
    weights = weights or [client_weights(server, kind, seed) for seed, kind in enumerate(kinds)]
    stacks = []
    for kind in dict.fromkeys(kinds):
        positions = [position for position, own in enumerate(kinds) if own == kind]
        stacked = {
            name: torch.stack([weights[position][name] for position in positions]) for name in weights[positions[0]]
        }
        stacks.append(WeightStack(list(server.architectures)[kind], torch.tensor(positions), stacked))
    counts = counts or [10] * len(kinds)
    return KnowledgeBatch(
        client_ids=client_ids or tuple(range(len(kinds))),
        round=2,
        tensors={},
        weights=tuple(stacks),
        num_examples=torch.tensor(counts, dtype=torch.float64),
    )


def predicted(server, kind, weights):
    module = server.build(list(server.architectures)[kind]).eval()
    module.load_state_dict(weights)
    with torch.no_grad():
        return module(server.transfer_inputs).logits


def divergence(server, knowledge, kind, weights):
    """Mean KL of a student from the ensemble."""
    target = ensemble_logits(knowledge, server).log_softmax(1)
    student = predicted(server, kind, weights).log_softmax(1)
    return float((target.exp() * (target - student)).sum(1).mean())


def assert_close(weights, expected, atol):
    assert list(weights) == list(expected)
    for name, tensor in expected.items():
        assert weights[name].dtype == tensor.dtype
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=atol)


def test_weights_travel_both_ways_and_examples_are_counted():
    assert FedDF.sends == FedDF.returns == {"weights"}
    assert FedDF.needs == {"num_examples"}
    assert not FedDF.one_architecture


def test_the_ensemble_is_the_mean_of_the_logits_of_all_architectures():
    server = make_server(SMALL, LARGE)
    kinds = [0, 1, 0]
    weights = [client_weights(server, kind, seed) for seed, kind in enumerate(kinds)]
    expected = sum(predicted(server, kind, own) for kind, own in zip(kinds, weights, strict=True)) / 3
    # Each client counts once, whatever its number of examples.
    knowledge = batch(server, kinds, weights, counts=[1, 500, 7])
    torch.testing.assert_close(ensemble_logits(knowledge, server), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("build", [SMALL, Normalised])
def test_identical_clients_are_an_ensemble_that_answers_like_each_of_them(build):
    server = make_server(build)
    weights = client_weights(server, 0, 7)
    knowledge = batch(server, [0, 0, 0], [weights] * 3)
    targets = ensemble_logits(knowledge, server).softmax(1)
    torch.testing.assert_close(targets, predicted(server, 0, weights).softmax(1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("build", [SMALL, Normalised])
def test_distilling_identical_clients_changes_nothing(build):
    server = make_server(build)
    weights = client_weights(server, 0, 7)
    fused = FedDF().fuse(batch(server, [0, 0, 0], [weights] * 3, counts=[1, 2, 30]), server)
    assert_close(fused.common["weights"], weights, atol=1e-6)


def test_without_distillation_it_is_the_average_by_examples():
    server = make_server(SMALL, optimizer=replace(SGD, lr=1e-30))
    weights = [client_weights(server, 0, seed) for seed in range(2)]
    fused = FedDF().fuse(batch(server, [0, 0], weights, counts=[10, 30]), server)
    expected = {name: 0.25 * weights[0][name] + 0.75 * weights[1][name] for name in weights[0]}
    assert_close(fused.common["weights"], expected, atol=1e-14)


def test_one_step_is_a_step_down_the_divergence_from_the_average():
    server = make_server(SMALL, epochs=1, num_transfer=8)
    weights = [client_weights(server, 0, seed) for seed in range(3)]
    knowledge = batch(server, [0, 0, 0], weights)
    module = server.build(next(iter(server.architectures)))
    module.load_state_dict({name: sum(own[name] for own in weights) / 3 for name in weights[0]})
    target = (sum(predicted(server, 0, own) for own in weights) / 3).softmax(1)
    loss = (target * (target.log() - module(server.transfer_inputs).logits.log_softmax(1))).sum() / 8
    loss.backward()
    expected = {name: (tensor - 0.1 * tensor.grad).detach() for name, tensor in module.named_parameters()}
    assert_close(FedDF().fuse(knowledge, server).common["weights"], expected, atol=1e-12)


def test_samples_are_visited_in_another_order_in_each_round_and_the_same_when_repeated():
    server = make_server(SMALL)
    second = batch(server, [0, 0])
    students = [FedDF().fuse(own, server).common["weights"] for own in (second, second, replace(second, round=3))]
    assert_close(students[1], students[0], atol=0)
    assert not torch.equal(students[2]["head.bias"], students[0]["head.bias"])


def test_every_architecture_gets_a_student_nearer_to_the_ensemble_than_its_average():
    server = make_server(SMALL, LARGE, epochs=30)
    kinds = [1, 0, 0, 1]
    weights = [client_weights(server, kind, seed) for seed, kind in enumerate(kinds)]
    knowledge = batch(server, kinds, weights, client_ids=(2, 5, 6, 9))
    fused = FedDF().fuse(knowledge, server)
    assert fused.common is None
    assert set(fused.personal) == {2, 5, 6, 9}
    students = {client: own["weights"] for client, own in fused.personal.items()}
    assert_close(students[5], students[6], atol=0)
    assert_close(students[2], students[9], atol=0)
    for kind, client, cohort in ((1, 2, (0, 3)), (0, 5, (1, 2))):
        start = {name: sum(weights[row][name] for row in cohort) / 2 for name in weights[cohort[0]]}
        before, after = (divergence(server, knowledge, kind, own) for own in (start, students[client]))
        assert after < 0.7 * before


def test_a_lone_client_of_its_architecture_learns_from_the_others():
    server = make_server(SMALL, LARGE, epochs=20)
    own = client_weights(server, 1, 3)
    knowledge = batch(server, [0, 1], [client_weights(server, 0, 0), own])
    student = FedDF().fuse(knowledge, server).personal[1]["weights"]
    assert divergence(server, knowledge, 1, student) < 0.7 * divergence(server, knowledge, 1, own)


def test_the_order_of_clients_does_not_matter():
    server = make_server(SMALL, LARGE)
    kinds, counts, order = [0, 1, 0, 0], [3, 5, 9, 2], [3, 0, 1, 2]
    weights = [client_weights(server, kind, seed) for seed, kind in enumerate(kinds)]
    fused = FedDF().fuse(batch(server, kinds, weights, counts), server)
    rearranged = ([values[row] for row in order] for values in (kinds, weights, counts))
    permuted = FedDF().fuse(batch(server, *rearranged), server)
    for position, row in enumerate(order):
        assert_close(permuted.personal[position]["weights"], fused.personal[row]["weights"], atol=1e-12)


def test_a_student_is_distilled_with_its_layers_as_they_predict():
    server = make_server(Normalised, epochs=5)
    weights = [client_weights(server, 0, seed) for seed in range(2)]
    for seen, own in enumerate(weights):
        own["model.layers.1.num_batches_tracked"] += 3 + seen
        own["model.layers.1.running_mean"] += seen
    knowledge = batch(server, [0, 0], weights)
    student = FedDF().fuse(knowledge, server).common["weights"]
    assert student["model.layers.1.running_mean"].tolist() == [0.5] * 6
    assert student["model.layers.1.num_batches_tracked"].tolist() == 4
    assert_close(FedDF().fuse(knowledge, server).common["weights"], student, atol=0)
    start = {name: average(stacked, torch.ones(2).double()) for name, stacked in knowledge.weights[0].weights.items()}
    assert divergence(server, knowledge, 0, student) < divergence(server, knowledge, 0, start)


def test_integer_buffers_that_all_clients_agree_on_stay_as_they_are():
    for number in range(1, 12):
        values = torch.tensor([1, 5, 7, 100]).expand(number, 4)
        assert average(values, torch.full((number,), 0.3, dtype=torch.float64)).tolist() == [1, 5, 7, 100]


def test_clients_of_one_architecture_start_alike_and_others_from_their_own():
    server = make_server(SMALL)
    initial = FedDF().initial(server).common["weights"]
    assert_close(initial, server.build(next(iter(server.architectures))).state_dict(), atol=0)
    assert FedDF().initial(make_server(SMALL, LARGE)) is None
