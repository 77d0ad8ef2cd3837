import pytest
import torch
from torch import nn
from torch.nn import functional

from fedfuse.errors import ConfigurationError
from fedfuse.models.resnet import ResidualBlock, ResNet


def num_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def by_hand(blocks, depth, classes, bias=0, norm=2):
    """Count: a convolution of `inner` to `outer` has 9 * inner * outer, and norms two numbers a channel."""
    convolutions = [(depth, 16)]
    for inner, outer in ((16, 16), (16, 32), (32, 64)):
        convolutions += [(inner, outer)] + [(outer, outer)] * (2 * blocks - 1)
    return sum(9 * inner * outer + (bias + norm) * outer for inner, outer in convolutions) + (64 + 1) * classes


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_parameter_counts(norm):
    assert num_parameters(ResNet((3, 32, 32), 10, 3, norm=norm)) == by_hand(3, 3, 10) == 269_722
    assert num_parameters(ResNet((1, 8, 8), 5, 1, norm=norm)) == by_hand(1, 1, 5) == 74_677


def test_without_a_norm_convolutions_have_a_bias():
    model = ResNet((3, 32, 32), 10, 1, norm="none")
    assert num_parameters(model) == by_hand(1, 3, 10, bias=1, norm=0)


@pytest.mark.parametrize(("blocks", "layers"), [(1, 8), (3, 20)])
def test_it_has_as_many_layers_as_its_name_says(blocks, layers):
    model = ResNet((3, 32, 32), 10, blocks)
    assert sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in model.modules()) == layers


def test_a_wider_network_and_another_width_of_the_features():
    model = ResNet((1, 8, 8), 10, width=4, embedding_size=7)
    assert [layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)] == [4, 4, 4, 8, 8, 16, 16]
    outputs = model(torch.randn(2, 1, 8, 8))
    assert outputs.features.shape == (2, 7)
    assert outputs.features.min() >= 0
    assert model.embedding_size == 7


def test_features_are_the_mean_over_the_last_map():
    model = ResNet((1, 8, 8), 10)
    images = torch.randn(2, 1, 8, 8)
    maps = model.body[:-2](images)
    assert maps.shape == (2, 64, 2, 2)
    torch.testing.assert_close(model(images).features, maps.mean((2, 3)))


def test_a_block_adds_what_came_in():
    block = ResidualBlock(3, 3, "none")
    maps = torch.randn(2, 3, 5, 5)
    kernels, bias, second, second_bias = block.parameters()
    inside = functional.conv2d(maps, kernels, bias, padding=1).clamp(min=0)
    expected = functional.conv2d(inside, second, second_bias, padding=1) + maps
    torch.testing.assert_close(block(maps), expected.clamp(min=0))


def test_a_shortcut_takes_every_second_pixel_and_fills_new_channels_with_zeros():
    block = ResidualBlock(2, 4, "none")
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    maps = torch.rand(1, 2, 5, 5)
    outputs = block(maps)
    assert outputs.shape == (1, 4, 3, 3)
    assert torch.equal(outputs[:, :2], maps[:, :, ::2, ::2])
    assert torch.equal(outputs[:, 2:], torch.zeros(1, 2, 3, 3))


def test_the_gradient_of_a_shortcut_goes_to_the_pixels_it_takes_alone():
    block = ResidualBlock(1, 2, "none")
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    maps = torch.rand(1, 1, 5, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(block(maps).sum(), maps)
    assert gradient[0, 0].tolist() == [[1, 0, 1, 0], [0] * 4, [1, 0, 1, 0], [0] * 4, [1, 0, 1, 0]]


@pytest.mark.parametrize("numbers", [{"blocks_per_stage": 0}, {"width": 0}, {"embedding_size": 0}])
def test_an_empty_layer_is_refused(numbers):
    with pytest.raises(ConfigurationError, match="empty layer; each must be at least 1"):
        ResNet((1, 8, 8), 10, **numbers)


def test_what_is_no_image_is_refused():
    with pytest.raises(ConfigurationError, match=r"A ResNet needs images .* is \[9, 128\]"):
        ResNet((9, 128), 6)
