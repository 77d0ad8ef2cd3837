import pytest
from torch import nn

from fedfuse.errors import ConfigurationError
from fedfuse.models.norm import normalisation


@pytest.mark.parametrize(("channels", "groups"), [(16, 2), (64, 8), (40, 5), (12, 3), (5, 5), (1, 1)])
def test_groups_have_eight_channels_or_the_most_that_divide(channels, groups):
    layer = normalisation("group", channels)
    assert isinstance(layer, nn.GroupNorm)
    assert (layer.num_groups, layer.num_channels) == (groups, channels)


def test_batch_normalisation_and_none_are_options():
    assert isinstance(normalisation("batch", 16), nn.BatchNorm2d)
    assert normalisation("batch", 16).num_features == 16
    assert isinstance(normalisation("none", 16), nn.Identity)


def test_an_unknown_norm_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigurationError, match=r"Unknown norm 'bach'. Did you mean 'batch'\? Valid: batch, group"):
        normalisation("bach", 16)
