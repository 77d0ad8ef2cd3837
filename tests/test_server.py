from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from fedfuse.configuration import OptimizerSettings, TrainingSettings
from fedfuse.models.architecture import describe
from fedfuse.models.mlp import MLP
from fedfuse.randomness import epoch_order, numpy_generator, torch_seed
from fedfuse.server import Server
from fedfuse.transfer.all import AllRows

SMALL = partial(MLP, input_shape=(2, 3), num_classes=4, hidden=(5,), embedding_size=6)
LARGE = partial(MLP, input_shape=(2, 3), num_classes=4, hidden=(7, 5), embedding_size=6)


def make_server(seed=0, dtype=torch.float32):
    architectures = [describe(name, build, (2, 3)) for name, build in (("small", SMALL), ("large", LARGE))]
    return Server(
        seed=seed,
        transfer_inputs=torch.zeros(11, 2, 3),
        transfer_digest="digest",
        class_names=("a", "b", "c", "d"),
        architectures={architecture.signature: architecture for architecture in architectures},
        dtype=dtype,
        transfer_rows=AllRows(),
    )


def weights_of(server, number=0):
    return server.build(list(server.architectures)[number]).state_dict()


def test_sizes_of_transfer_set_and_classes():
    server = make_server()
    assert (server.num_transfer, server.num_classes) == (11, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_transfer_samples_come_as_models_take_them(dtype):
    pixels = torch.tensor([[0, 51], [255, 102], [1, 2]], dtype=torch.uint8)
    server = replace(make_server(dtype=dtype), transfer_inputs=pixels)
    given = server.inputs(torch.tensor([1, 0]))
    assert given.dtype == dtype
    torch.testing.assert_close(given, torch.tensor([[1.0, 0.4], [0.0, 0.2]], dtype=dtype))
    numbers = torch.tensor([[3.5], [-2.0]])
    assert torch.equal(replace(server, transfer_inputs=numbers).inputs(torch.tensor([1])), numbers[1:].to(dtype))


def test_built_weights_are_the_ones_that_the_seed_draws():
    torch.manual_seed(torch_seed(3, "server weights"))
    expected = SMALL().state_dict()
    torch.manual_seed(99)
    first, again = weights_of(make_server(seed=3)), weights_of(make_server(seed=3))
    assert list(first) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(first[name], tensor)
        assert torch.equal(again[name], tensor)


def test_another_seed_draws_other_weights():
    one, other = weights_of(make_server(seed=0)), weights_of(make_server(seed=1))
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_the_architecture_is_chosen_by_its_signature():
    server = make_server()
    for signature, architecture in server.architectures.items():
        module = server.build(signature)
        assert isinstance(module, MLP)
        assert {name: tensor.shape for name, tensor in module.state_dict().items()} == dict(architecture.shapes)
    assert len(weights_of(server, 0)) != len(weights_of(server, 1))


def test_models_have_the_precision_of_the_run_and_the_same_numbers():
    single, double = weights_of(make_server()), weights_of(make_server(dtype=torch.float64))
    for name, tensor in single.items():
        assert tensor.dtype == torch.float32
        assert double[name].dtype == torch.float64
        assert torch.equal(double[name], tensor.double())


def test_every_model_is_built_anew():
    server = make_server()
    first = server.build(next(iter(server.architectures)))
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    assert all(parameter.requires_grad for parameter in first.parameters())
    assert weights_of(server)["head.weight"].abs().sum() > 0


def test_building_leaves_torchs_own_generator_alone():
    before = torch.get_rng_state()
    weights_of(make_server())
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_architecture_is_refused():
    with pytest.raises(KeyError, match="0123456789abcdef"):
        make_server().build("0123456789abcdef")


def test_a_strategys_draws_have_streams_of_their_own():
    server = make_server(seed=5)
    draw = server.generator("noise", round=2).random()
    assert draw == numpy_generator(5, "strategy noise", 2).random()
    others = [
        server.generator("noise", round=3),
        server.generator("other", round=2),
        make_server(seed=6).generator("noise", round=2),
        numpy_generator(5, "noise", 2),
    ]
    assert all(other.random() != draw for other in others)
    assert server.generator("noise").random() == server.generator("noise", round=0).random()


def test_a_server_model_is_trained_as_anyone_would_in_torch():
    server = replace(make_server(), training=TrainingSettings(3, 4, OptimizerSettings("sgd", lr=0.1, momentum=0.5)))
    rows, target = torch.tensor([7, 1, 2, 9, 4, 5]), torch.linspace(-1, 1, 11)
    module, plain = nn.Linear(1, 1), nn.Linear(1, 1)
    plain.load_state_dict(module.state_dict())

    def loss_of(model):
        return lambda batch: (model(batch.float().unsqueeze(1) / 10).squeeze(1) - target[batch]).square().mean()

    server.train(module, loss_of(module), rows, "test", round=2)
    assert not module.training

    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.5)
    for order in rows[epoch_order(server.generator("test", 2), 6, 3)]:
        for batch in torch.split(order, 4):
            optimizer.zero_grad()
            loss_of(plain)(batch).backward()
            optimizer.step()
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], tensor, rtol=0, atol=1e-6)


def test_secret_bytes_are_new_at_every_call():
    server = make_server()
    assert server.secure_rng
    first, again = (server.keystream("votes", 1).bytes(16) for _ in range(2))
    assert first != again


def test_for_simulation_the_seed_the_purpose_and_the_round_decide_secret_bytes():
    def drawn(seed, purpose, round):
        return replace(make_server(seed=seed), secure_rng=False).keystream(purpose, round).bytes(16)

    assert drawn(0, "votes", 1) == drawn(0, "votes", 1)
    assert len({drawn(*which) for which in [(0, "votes", 1), (1, "votes", 1), (0, "counts", 1), (0, "votes", 2)]}) == 4
