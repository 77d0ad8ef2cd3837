import pickle
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from fedfuse.errors import ConfigurationError
from fedfuse.models.architecture import describe, size_in_words
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


def test_operations_are_two_for_each_multiplication():
    assert mlp().flops == 2 * (64 * 16 + 16 * 32 + 32 * 10)
    convolutions = 2 * (8 * 8 * 9 * 1 * 8 + 4 * 4 * 9 * 8 * 16)
    linear = 2 * (16 * 2 * 2 * 32 + 32 * 10)
    assert describe("cnn", partial(CNN, IMAGE, 10), IMAGE).flops == convolutions + linear


class Attending(nn.Module):
    """Attention over three tokens of four numbers, in one of torch's two ways of running it in one piece."""

    def __init__(self, as_a_layer: bool):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True) if as_a_layer else None
        self.head = nn.Linear(12, 2)

    def forward(self, inputs):
        if self.layer is None:
            features = functional.scaled_dot_product_attention(inputs, inputs, inputs).flatten(1)
        else:
            features = self.layer(inputs).flatten(1)
        return Outputs(self.head(features), features)


def test_operations_inside_attention_are_counted():
    head, attention = 2 * 12 * 2, 2 * 2 * 3 * 3 * 4
    projections, layers = 2 * 3 * 4 * (12 + 4), 2 * 3 * 2 * 4 * 8
    assert describe("attention", partial(Attending, False), (3, 4)).flops == attention + head
    assert describe("layer", partial(Attending, True), (3, 4)).flops == projections + attention + layers + head


@pytest.mark.parametrize(
    ("num_parameters", "flops", "words"),
    [
        (61_706, 849_640, "mlp (61,706 parameters, 0.85 MFLOPs a sample)"),
        (650, 1_280, "mlp (650 parameters, 0.001 MFLOPs a sample)"),
        (25_000_000, 8_178_000_000, "mlp (25,000,000 parameters, 8,178.00 MFLOPs a sample)"),
    ],
)
def test_size_in_words(num_parameters, flops, words):
    assert size_in_words(replace(mlp(), num_parameters=num_parameters, flops=flops)) == words


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


class Filtering(nn.Module):
    """A convolution of which no shape tells the stride."""

    def __init__(self, stride):
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 1, stride=stride)
        self.head = nn.Linear(2, 3)

    def forward(self, inputs):
        features = self.convolution(inputs).mean((2, 3))
        return Outputs(self.head(features), features)


def test_what_no_shape_tells_gives_another_signature():
    one, two = (describe("model", partial(Filtering, stride), IMAGE) for stride in (1, 2))
    assert one.shapes == two.shapes
    assert one.signature != two.signature


class Flattening(nn.Module):
    """A convolutional network that relies on the usual order in memory, as many do."""

    def __init__(self):
        super().__init__()
        self.convolution, self.head = nn.Conv2d(1, 3, 3, padding=1), nn.Linear(3 * 64, 2)

    def forward(self, inputs):
        features = self.convolution(inputs).view(-1, 3 * 64)
        return Outputs(self.head(features), features)


class Deciding(nn.Linear):
    """A model that looks at values to decide, or draws without a layer that says so."""

    def __init__(self, draws):
        super().__init__(4, 2)
        self.draws = draws

    def forward(self, inputs):
        if self.draws:
            inputs = functional.dropout(inputs, training=self.training)
        elif inputs.sum() > 1:
            inputs = 2 * inputs
        return Outputs(super().forward(inputs), inputs)


def test_whether_channels_can_be_last_is_tried():
    assert describe("cnn", partial(CNN, IMAGE, 10), IMAGE).takes_channels_last
    assert not describe("flattening", Flattening, IMAGE).takes_channels_last
    assert not mlp().takes_channels_last


@pytest.mark.parametrize("draws", [False, True])
def test_whether_models_can_be_stacked_is_tried(draws):
    assert mlp().can_be_stacked
    assert not describe("deciding", partial(Deciding, draws), (4,)).can_be_stacked


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


def test_what_is_neither_outputs_nor_logits_is_refused():
    with pytest.raises(ConfigurationError) as refused:
        describe("plain", partial(Answering, {"logits": 1}), (4,))
    assert str(refused.value) == (
        "Model 'plain' returns dict; its forward must return fedfuse.models.outputs.Outputs(logits, features), "
        "or the logits alone."
    )


def test_what_is_no_module_is_refused():
    with pytest.raises(ConfigurationError, match=r"Model 'function' is function; it must be a torch.nn.Module"):
        describe("function", lambda: mlp, (4,))


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_a_model_that_does_not_know_its_sizes_is_refused():
    with pytest.raises(ConfigurationError, match="Model 'lazy' has lazy layers; give every layer its sizes"):
        describe("lazy", partial(nn.LazyLinear, 2), (4,))


def test_a_model_that_returns_logits_gets_features():
    architecture = describe("plain", partial(nn.Linear, 4, 2), (4,), 2)
    assert (architecture.num_parameters, architecture.flops, architecture.embedding_size) == (10, 2 * 4 * 2, 4)
    assert list(architecture.shapes) == ["model.weight", "model.bias"]
    drawn = architecture.initial_parameters(3, torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        expected = nn.Linear(4, 2)
    assert torch.equal(drawn["model.weight"], expected.weight)
    inputs = torch.randn(5, 4)
    outputs = functional_call(architecture.module(), drawn, (inputs,))
    assert torch.equal(outputs.features, inputs)
    assert torch.equal(outputs.logits, expected(inputs))


def test_a_model_whose_features_cannot_be_found_is_refused_by_name():
    with pytest.raises(ConfigurationError, match=r"Model 'relu': its features cannot be found: .* return fedfuse.mod"):
        describe("relu", nn.ReLU, (4,))


def test_another_number_of_logits_than_the_data_has_classes_is_refused():
    with pytest.raises(ConfigurationError, match=r"Model 'mlp' returns 10 logits; the data has 7 classes."):
        describe("mlp", partial(MLP, IMAGE, 10), IMAGE, num_classes=7)


def test_features_that_are_no_vectors_are_refused():
    answer = Outputs(torch.zeros(1, 10), torch.zeros(1, 16, 2, 2))
    with pytest.raises(ConfigurationError, match=r"features \[1, 16, 2, 2\] for one sample"):
        describe("maps", partial(Answering, answer), IMAGE)


def test_a_model_that_fails_without_a_word_is_refused_with_the_name_of_the_error():
    class Failing(nn.Module):
        def forward(self, inputs):
            raise AssertionError

    with pytest.raises(ConfigurationError, match=r"cannot take a sample of shape \[4\]: AssertionError$"):
        describe("failing", Failing, (4,))


def test_a_model_for_other_inputs_is_refused():
    with pytest.raises(ConfigurationError, match=r"Model 'mlp' cannot take a sample of shape \[1, 28, 28\]: mat1"):
        describe("mlp", partial(MLP, IMAGE, 10), (1, 28, 28))


class Headed(nn.Module):
    """A model whose ``head`` is a linear layer, of which it makes its logits by a function."""

    def __init__(self, answer, bias=True):
        super().__init__()
        self.head, self.answer = nn.Linear(4, 2, bias=bias), answer

    def forward(self, inputs):
        return Outputs(self.answer(self.head, inputs), inputs)


def test_a_head_is_a_linear_layer_with_a_bias_that_makes_the_logits_of_the_features():
    def has_head(*arguments):
        return describe("headed", partial(Headed, *arguments), (4,)).has_head

    assert mlp().has_head
    assert describe("cnn", partial(CNN, IMAGE, 10), IMAGE).has_head
    assert has_head(lambda head, inputs: head(inputs))
    assert not has_head(lambda head, inputs: head(inputs), False)
    assert not has_head(lambda head, inputs: head(inputs) + 1)
    assert not has_head(lambda head, inputs: inputs[:, :2])
    assert not describe("wrapped", partial(nn.Sequential, nn.Flatten(), nn.Linear(64, 10)), IMAGE).has_head
