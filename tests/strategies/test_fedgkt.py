import math
from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from fedfuse.carriers import private_soft_labels
from fedfuse.knowledge import KnowledgeBatch
from fedfuse.models.architecture import describe
from fedfuse.models.mlp import MLP
from fedfuse.server import Server
from fedfuse.transfer.all import AllRows
from strategies.fedgkt import FedGKT

WIDTH = 4


@pytest.fixture(scope="module")
def server():
    architecture = describe("mlp", partial(MLP, input_shape=(3,), num_classes=3, hidden=(4,)), (3,))
    return Server(
        seed=4,
        transfer_inputs=torch.zeros(5, 3),
        transfer_digest="digest",
        class_names=("a", "b", "c"),
        architectures={architecture.signature: architecture},
        dtype=torch.float64,
        transfer_rows=AllRows(),
    )


def samples(numbers=(5, 0, 9, 1), seed=0):
    """Features that lie around a middle for each class, and logits of clients that know nothing."""
    random = torch.Generator().manual_seed(seed)
    total = sum(numbers)
    labels = torch.randint(3, (total,), generator=random)
    middles = 2 * torch.randn(3, WIDTH, generator=random, dtype=torch.float64)
    noise = 0.1 * torch.randn(total, WIDTH, generator=random, dtype=torch.float64)
    return {
        "features": middles[labels] + noise,
        "logits": torch.zeros(total, 3, dtype=torch.float64),
        "labels": labels,
        "owners": torch.arange(len(numbers)).repeat_interleave(torch.tensor(numbers)),
    }


def fuse(strategy, server, own, clients=(2, 3, 5, 9)):
    fused = strategy.fuse(KnowledgeBatch(clients, 1, {"private_features": own}), server)
    assert fused.common is None
    assert tuple(fused.personal) == clients
    return [fused.personal[client]["private_soft_labels"]["soft_labels"] for client in clients]


def test_what_leaks_is_declared_and_said():
    assert (FedGKT.sends, FedGKT.returns) == ({"private_features"}, {"private_soft_labels"})
    assert FedGKT.needs == {"private_labels"}
    assert FedGKT.one_embedding_size
    assert FedGKT.caution == "LEAKS: clients send features and labels of their private samples."


def test_each_client_gets_soft_labels_of_its_own_samples_in_their_order(server):
    own = samples()
    answers = fuse(FedGKT(label_weight=50.0), server, own)
    assert [len(answer) for answer in answers] == [5, 0, 9, 1]
    assert torch.equal(torch.cat(answers).argmax(1), own["labels"])
    for answer in answers:
        torch.testing.assert_close(answer.sum(1), torch.ones(len(answer), dtype=torch.float64))


def test_what_it_returns_is_what_the_carrier_lets_through(server, make_clients, make_expectation):
    expected = make_expectation(make_clients()[0])
    for answer in fuse(FedGKT(), server, samples()):
        private_soft_labels.check({"soft_labels": answer}, expected)


def test_without_labels_the_server_comes_to_answer_like_the_clients(server):
    own = samples()
    own["logits"] = 2 * one_hot((own["labels"] + 1) % 3).double()
    for temperature in (1.0, 3.0):
        strategy = FedGKT(label_weight=0.0, steps=500, temperature=temperature)
        answers = torch.cat(fuse(strategy, server, own))
        torch.testing.assert_close(answers, torch.softmax(own["logits"], 1), rtol=0, atol=0.02)


def test_training_lowers_the_loss_of_the_docstring(server):
    own = samples()
    own["logits"] = own["features"][:, :3]
    temperature, alpha = 2.0, 0.5

    def loss(answers):
        logits = torch.log(torch.cat(answers))
        taught, given = (torch.softmax(z / temperature, 1) for z in (own["logits"], logits))
        divergence = (taught * (taught / given).log()).sum(1).mean()
        return float(temperature**2 * divergence + alpha * cross_entropy(logits, own["labels"]))

    losses = [
        loss(fuse(FedGKT(temperature=temperature, label_weight=alpha, steps=steps), server, own))
        for steps in (1, 20, 200)
    ]
    assert losses[0] > losses[1] > losses[2]


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_of_one_sample_the_server_finds_the_least_of_the_loss_of_the_docstring(server, temperature):
    own = samples((1,))
    own["logits"] = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64)
    (answer,) = fuse(FedGKT(temperature=temperature, label_weight=0.5, steps=1000), server, own, (0,))
    towards_client = torch.softmax(answer.log() / temperature, 1) - torch.softmax(own["logits"] / temperature, 1)
    towards_label = answer - one_hot(own["labels"], 3)
    gradient = temperature * towards_client + 0.5 * towards_label
    assert gradient.abs().max() < 1e-4
    assert towards_label.abs().max() > 0.1


def test_the_servers_head_goes_on_from_round_to_round_and_through_a_save(server):
    own = samples()
    whole, stopped, resumed = FedGKT(steps=5), FedGKT(steps=5), FedGKT(steps=5)
    assert stopped.state_dict() == {"network": {}}
    first = torch.cat(fuse(whole, server, own))
    assert torch.equal(torch.cat(fuse(stopped, server, own)), first)
    resumed.load_state_dict(stopped.state_dict())
    second = torch.cat(fuse(whole, server, own))
    assert not torch.equal(first, second)
    assert torch.equal(torch.cat(fuse(resumed, server, own)), second)


def test_the_order_of_clients_does_not_matter_and_the_type_stays(server):
    own = samples((3, 3))
    first, second = fuse(FedGKT(), server, own, (0, 1))
    swapped = {name: tensor.roll(3, 0) for name, tensor in own.items() if name != "owners"}
    other, one = fuse(FedGKT(), server, {**swapped, "owners": own["owners"]}, (0, 1))
    torch.testing.assert_close(one, first, rtol=0, atol=1e-8)
    torch.testing.assert_close(other, second, rtol=0, atol=1e-8)
    single = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in own.items()}
    assert fuse(FedGKT(steps=2), server, single, (0, 1))[0].dtype == torch.float32


def test_clients_without_a_sample_get_nothing_to_learn_from(server):
    answers = fuse(FedGKT(), server, samples((0, 0)), (0, 1))
    assert [answer.shape for answer in answers] == [(0, 3), (0, 3)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": 0}, "hidden=0 must be at least 1"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"temperature": 0.0}, "temperature=0.0 must be finite and positive"),
        ({"lr": math.inf}, "lr=inf must be finite and positive"),
        ({"label_weight": -1.0}, "label_weight=-1.0 must be finite and not negative"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FedGKT(**arguments)
