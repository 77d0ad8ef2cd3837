import pytest
import torch
from torch import nn

from fedfuse.errors import ConfigurationError
from fedfuse.models.mobilenet import InvertedResidual, MobileNet


def num_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def block_by_hand(inner, outer, expansion):
    wide = expansion * inner
    widening = inner * wide + 2 * wide if expansion > 1 else 0
    return widening + (9 * wide + 2 * wide) + (wide * outer + 2 * outer)


def test_parameter_counts():
    stem, last, head = 3 * 16 * 9 + 2 * 16, 64 * 64 + 2 * 64, 64 * 10 + 10
    widths = [(16, 16, 1), (16, 24, 4), (24, 24, 4), (24, 40, 4), (40, 40, 4), (40, 64, 4), (64, 64, 4)]
    expected = stem + sum(block_by_hand(*width) for width in widths) + last + head
    assert num_parameters(MobileNet((3, 32, 32), 10)) == expected == 92_650


@pytest.mark.parametrize(("side", "last_map"), [(1, 1), (8, 4), (16, 4), (28, 7), (32, 4), (96, 6)])
def test_maps_are_halved_until_they_are_small(side, last_map):
    model = MobileNet((1, side, side), 10)
    maps = model.body[:-2](torch.zeros(1, 1, side, side))
    assert maps.shape == (1, 64, last_map, last_map)


def test_features_are_the_mean_over_the_last_map():
    model = MobileNet((1, 8, 8), 10, embedding_size=5)
    images = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(model(images).features, model.body[:-2](images).mean((2, 3)))
    assert model(images).features.shape == (2, 5)


def test_a_block_widens_filters_each_channel_and_narrows_without_an_activation():
    block = InvertedResidual(4, 4, 3, 1, "none")
    widen, filter_, narrow = (layer for layer in block.modules() if isinstance(layer, nn.Conv2d))
    maps = torch.randn(2, 4, 5, 5)
    assert (filter_.groups, filter_.weight.shape) == (12, (12, 1, 3, 3))
    inside = filter_(widen(maps).clamp(0, 6)).clamp(0, 6)
    torch.testing.assert_close(block(maps), maps + narrow(inside))


def test_a_block_that_changes_the_shape_adds_nothing():
    for inner, outer, stride in ((4, 6, 1), (4, 4, 2)):
        block = InvertedResidual(inner, outer, 2, stride, "none")
        for parameter in block.parameters():
            nn.init.zeros_(parameter)
        assert not block(torch.rand(1, inner, 5, 5)).any()


@pytest.mark.parametrize(("norm", "layer"), [("group", nn.GroupNorm), ("batch", nn.BatchNorm2d)])
def test_the_norm_is_the_one_chosen(norm, layer):
    model = MobileNet((1, 8, 8), 10, norm=norm)
    # One after each convolution: three a block, but for the first which does not widen, the first and the last.
    assert sum(isinstance(own, layer) for own in model.modules()) == 7 * 3 - 1 + 2


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigurationError, match=r"A MobileNet needs images .* is \[64\]"):
        MobileNet((64,), 10)
    with pytest.raises(ConfigurationError, match="embedding_size of a MobileNet must be at least 1, not 0"):
        MobileNet((1, 8, 8), 10, embedding_size=0)
