import pickle
from functools import partial

import pytest
import torch
from torch import nn

from fedfuse.errors import ConfigurationError
from fedfuse.models.architecture import describe
from fedfuse.models.cnn import CNN
from fedfuse.models.mlp import MLP
from fedfuse.models.outputs import Outputs

IMAGE = (1, 8, 8)


def mlp(name="mlp", hidden=(16,), embedding_size=32):
    return describe(name, partial(MLP, IMAGE, 10, hidden, embedding_size), IMAGE)


class Normalised(nn.Module):
    def __init__(self, activation: type[nn.Module] = nn.ReLU):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.activation = activation()
        self.head = nn.Linear(4, 2)

    def forward(self, inputs):
        features = self.activation(self.norm(inputs))
        return Outputs(self.head(features), features)


class Answering(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, inputs):
        return self.answer


def test_facts_of_an_mlp():
    architecture = mlp()
    assert architecture.name == "mlp"
    assert architecture.num_parameters == (64 * 16 + 16) + (16 * 32 + 32) + (32 * 10 + 10)
    assert architecture.embedding_size == 32
    assert architecture.layer_types == {"Flatten", "Linear", "ReLU"}
    assert list(architecture.shapes.values()) == [(16, 64), (16,), (32, 16), (32,), (10, 32), (10,)]
    assert list(architecture.shapes) == list(architecture.build_module().state_dict())


def test_facts_of_a_cnn():
    architecture = describe("cnn", partial(CNN, IMAGE, 10), IMAGE)
    assert architecture.num_parameters == 3658
    assert architecture.layer_types == {"Conv2d", "ReLU", "MaxPool2d", "Flatten", "Linear"}


def test_buffers_have_shapes_but_are_not_trained():
    architecture = describe("normalised", Normalised, (4,))
    assert architecture.num_parameters == (4 + 4) + (4 * 2 + 2)
    assert architecture.shapes["norm.running_mean"] == (4,)
    assert architecture.shapes["norm.num_batches_tracked"] == ()


def test_the_signature_is_that_of_the_layout_whatever_the_name():
    signature = mlp("one").signature
    assert signature == mlp("two").signature
    assert len(signature) == 16
    assert int(signature, 16) >= 0


@pytest.mark.parametrize(
    "other",
    [
        mlp(hidden=(17,)),
        mlp(hidden=()),
        mlp(embedding_size=31),
        describe("mlp", partial(MLP, IMAGE, 11, (16,), 32), IMAGE),
        describe("mlp", partial(type("Other", (MLP,), {}), IMAGE, 10, (16,), 32), IMAGE),
    ],
)
def test_another_layout_has_another_signature(other):
    assert other.signature != mlp().signature


def test_another_layer_without_parameters_gives_another_signature():
    relu, gelu = (describe("model", partial(Normalised, layer), (4,)) for layer in (nn.ReLU, nn.GELU))
    assert relu.shapes == gelu.shapes
    assert relu.signature != gelu.signature


def test_initial_parameters_repeat_bit_by_bit_and_follow_the_seed():
    architecture = mlp()
    first, again, other = (architecture.initial_parameters(seed, torch.float32) for seed in (1, 1, 2))
    assert list(first) == list(architecture.shapes)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_initial_parameters_are_those_of_the_module_under_that_seed():
    architecture = mlp()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        expected = architecture.build_module().state_dict()
    drawn = architecture.initial_parameters(7, torch.float32)
    assert all(torch.equal(drawn[name], expected[name]) for name in expected)


def test_all_dtypes_start_from_the_same_numbers():
    architecture = mlp()
    single, double = (architecture.initial_parameters(3, dtype) for dtype in (torch.float32, torch.float64))
    assert {tensor.dtype for tensor in double.values()} == {torch.float64}
    assert all(torch.equal(single[name].double(), double[name]) for name in single)


def test_integer_buffers_keep_their_type():
    drawn = describe("normalised", Normalised, (4,)).initial_parameters(0, torch.float64)
    assert drawn["norm.num_batches_tracked"].dtype == torch.int64
    assert drawn["norm.running_var"].dtype == torch.float64


def test_initial_parameters_belong_to_the_caller():
    module = MLP(IMAGE, 10)
    architecture = describe("shared", lambda: module, IMAGE)
    drawn = architecture.initial_parameters(0, torch.float32)
    assert not any(tensor.requires_grad for tensor in drawn.values())
    for tensor in drawn.values():
        tensor.zero_()
    assert all(parameter.abs().sum() > 0 for parameter in module.parameters())


def test_the_global_generator_is_left_as_it_was():
    before = torch.get_rng_state()
    architecture = mlp()
    assert torch.equal(torch.get_rng_state(), before)
    architecture.initial_parameters(5, torch.float32)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_architecture_can_be_sent_to_another_process():
    architecture = mlp()
    assert pickle.loads(pickle.dumps(architecture)).shapes == architecture.shapes


def test_plain_logits_are_refused():
    with pytest.raises(
        ConfigurationError,
        match=r"'plain' returns Tensor; its forward must return fedfuse.models.outputs.Outputs\(",
    ):
        describe("plain", partial(nn.Linear, 4, 2), (4,))


def test_features_that_are_no_vectors_are_refused():
    answer = Outputs(torch.zeros(1, 10), torch.zeros(1, 16, 2, 2))
    with pytest.raises(ConfigurationError, match=r"features \[1, 16, 2, 2\] for one sample"):
        describe("maps", partial(Answering, answer), IMAGE)


def test_a_model_for_other_inputs_is_refused():
    with pytest.raises(ConfigurationError, match=r"Model 'mlp' cannot take a sample of shape \[1, 28, 28\]: mat1"):
        describe("mlp", partial(MLP, IMAGE, 10), (1, 28, 28))
