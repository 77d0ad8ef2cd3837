from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedfuse.errors import ConfigurationError
from fedfuse.models.architecture import describe
from fedfuse.models.lenet import LeNet


def num_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_images_of_28x28_meet_the_classical_layout():
    model = LeNet((1, 28, 28), 10, embedding_size=84)
    convolutions = (1 * 6 * 25 + 6) + (6 * 16 * 25 + 16)
    linear = (400 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)
    assert num_parameters(model) == convolutions + linear == 61_706
    assert num_parameters(LeNet((1, 32, 32), 10, embedding_size=84)) == 61_706


def test_operations_are_those_counted_by_hand():
    convolutions = 2 * (28 * 28 * 6 * 25 + 10 * 10 * 16 * 6 * 25)
    linear = 2 * (400 * 120 + 120 * 84 + 84 * 10)
    architecture = describe("lenet", partial(LeNet, (1, 28, 28), 10, embedding_size=84), (1, 28, 28))
    assert architecture.flops == convolutions + linear == 833_040


def test_the_computation_is_that_of_lenet_5_with_relu_and_max_pools():
    model = LeNet((1, 28, 28), 10)
    images = torch.randn(3, 1, 28, 28)
    kernels, bias, second_kernels, second_bias, hidden, hidden_bias, embedding, shift, head, head_bias = (
        model.parameters()
    )
    maps = functional.max_pool2d(functional.conv2d(images, kernels, bias, padding=2).clamp(min=0), 2)
    assert maps.shape == (3, 6, 14, 14)
    maps = functional.max_pool2d(functional.conv2d(maps, second_kernels, second_bias).clamp(min=0), 2)
    assert maps.shape == (3, 16, 5, 5)
    features = functional.linear(maps.flatten(1), hidden, hidden_bias).clamp(min=0)
    features = functional.linear(features, embedding, shift).clamp(min=0)
    outputs = model(images)
    torch.testing.assert_close(outputs.features, features)
    torch.testing.assert_close(outputs.logits, functional.linear(features, head, head_bias))


@pytest.mark.parametrize(
    ("shape", "kernel", "map_size"),
    [
        ((1, 8, 8), 3, 2 * 2),
        ((1, 12, 15), 3, 3 * 3),
        ((1, 16, 16), 5, 2 * 2),
        ((3, 32, 32), 5, 5 * 5),
        ((3, 96, 96), 5, 5 * 5),
        ((3, 32, 40), 5, 5 * 5),
    ],
)
def test_it_is_scaled_to_the_image(shape, kernel, map_size):
    model = LeNet(shape, 10)
    first, _, second, _, hidden, *_ = model.parameters()
    assert first.shape == (6, shape[0], kernel, kernel)
    assert second.shape == (16, 6, kernel, kernel)
    assert hidden.shape == (120, 16 * map_size)
    assert model(torch.zeros(2, *shape)).logits.shape == (2, 10)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigurationError, match=r"A LeNet needs images of 8x8 or larger .* 7x9 with 1"):
        LeNet((1, 7, 9), 10)
    with pytest.raises(ConfigurationError, match="embedding_size of a LeNet must be at least 1, not 0"):
        LeNet((1, 8, 8), 10, embedding_size=0)


def test_relu_after_a_pool_gives_the_same_values_and_gradients_as_before_it_even_where_pixels_are_equal():
    model = LeNet((1, 28, 28), 10).double()
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
