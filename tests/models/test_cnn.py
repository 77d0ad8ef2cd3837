from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional

from fedfuse.errors import ConfigurationError
from fedfuse.models.cnn import CNN
from fedfuse.models.outputs import Outputs

CONFIG = Path(__file__).parents[2] / "configs" / "model" / "cnn_small.yaml"


def num_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_computation_is_convolutions_with_pools_and_a_linear_head():
    model = CNN((3, 6, 4), num_classes=2, channels=(4,), embedding_size=5)
    inputs = torch.randn(7, 3, 6, 4)
    kernels, biases, embedding, shift, head, head_bias = model.parameters()
    images = functional.max_pool2d(functional.conv2d(inputs, kernels, biases, padding=1).clamp(min=0), 2)
    assert images.shape == (7, 4, 3, 2)
    features = functional.linear(images.flatten(1), embedding, shift).clamp(min=0)
    outputs = model(inputs)
    assert isinstance(outputs, Outputs)
    torch.testing.assert_close(outputs.features, features)
    torch.testing.assert_close(outputs.logits, functional.linear(features, head, head_bias))
    assert model.embedding_size == 5


@pytest.mark.parametrize(
    ("input_shape", "pooled_size"),
    [((1, 8, 8), 16 * 2 * 2), ((1, 28, 28), 16 * 7 * 7), ((1, 11, 9), 16 * 2 * 2)],
)
def test_parameter_counts(input_shape, pooled_size):
    convolutions = (1 * 8 * 9 + 8) + (8 * 16 * 9 + 16)
    linear = (pooled_size * 32 + 32) + (32 * 10 + 10)
    model = CNN(input_shape, num_classes=10)
    assert num_parameters(model) == convolutions + linear
    assert model(torch.zeros(2, *input_shape)).logits.shape == (2, 10)


def test_no_layer_depends_on_the_batch_or_on_chance():
    model = CNN((1, 8, 8), num_classes=10).train()
    images = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(model(images).logits[:1], model(images[:1]).logits)
    assert list(model.buffers()) == []


def test_the_configuration_makes_a_cnn_of_the_stated_size():
    model = instantiate(OmegaConf.load(CONFIG), input_shape=[1, 8, 8], num_classes=10)
    assert isinstance(model, CNN)
    assert model.embedding_size == 64
    assert num_parameters(model) == 13706


def test_input_that_is_no_image_is_refused():
    with pytest.raises(ConfigurationError, match=r"needs images \[channels, height, width\].* is \[64\]"):
        CNN((64,), num_classes=10)


def test_an_image_too_small_for_the_pools_is_refused():
    with pytest.raises(ConfigurationError, match=r"8x8 are too small .* halves them 4 times; it needs 16x16"):
        CNN((1, 8, 8), num_classes=10, channels=(4, 4, 4, 4))
    assert CNN((1, 8, 8), num_classes=10, channels=(4, 4, 4))(torch.zeros(1, 1, 8, 8)).logits.shape == (1, 10)


@pytest.mark.parametrize("widths", [{"channels": (8, 0)}, {"embedding_size": 0}])
def test_an_empty_layer_is_refused(widths):
    with pytest.raises(ConfigurationError, match="empty layer; each must be at least 1"):
        CNN((1, 8, 8), 10, **widths)


def test_relu_after_a_pool_gives_the_same_values_and_gradients_as_before_it_even_where_pixels_are_equal():
    model = CNN((1, 28, 28), 10).double()
    images = torch.randint(-1, 2, (5, 1, 28, 28)).double()
    before = nn.Sequential(*model.body)
    for row in [row for row, layer in enumerate(before) if isinstance(layer, nn.MaxPool2d)]:
        before[row], before[row + 1] = before[row + 1], before[row]
    assert [type(layer) for layer in before][:3] == [nn.Conv2d, nn.ReLU, nn.MaxPool2d]
    values, gradients = [], []
    for body in (model.body, before):
        values.append(body(images))
        gradients.append(torch.autograd.grad(values[-1].sin().sum(), [*model.body.parameters()]))
    assert torch.equal(*values)
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    assert all(tensor.abs().sum() > 0 for tensor in gradients[0])
