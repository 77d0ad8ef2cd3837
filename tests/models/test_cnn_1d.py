import pytest
import torch
from torch.nn import functional

from fedfuse.errors import ConfigurationError
from fedfuse.models.cnn_1d import CNN1d


def num_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts():
    convolutions = (9 * 32 * 5 + 32) + (32 * 64 * 5 + 64) + (64 * 64 * 5 + 64)
    linear = (64 * 64 + 64) + (64 * 6 + 6)
    assert num_parameters(CNN1d((9, 128), 6)) == convolutions + linear == 36_870


def test_the_computation_is_convolutions_with_pools_and_the_mean_over_time():
    model = CNN1d((2, 12), num_classes=3, channels=(4, 5), kernel_size=3, embedding_size=6)
    series = torch.randn(7, 2, 12)
    kernels, bias, second, second_bias, embedding, shift, head, head_bias = model.parameters()
    maps = functional.max_pool1d(functional.conv1d(series, kernels, bias, padding=1).clamp(min=0), 2)
    # Six steps are too few for another pool.
    maps = functional.conv1d(maps, second, second_bias, padding=1).clamp(min=0)
    assert maps.shape == (7, 5, 6)
    features = functional.linear(maps.mean(2), embedding, shift).clamp(min=0)
    outputs = model(series)
    torch.testing.assert_close(outputs.features, features)
    torch.testing.assert_close(outputs.logits, functional.linear(features, head, head_bias))
    assert model.embedding_size == 6


def test_a_series_of_one_channel_may_come_without_it():
    with_channel, without = CNN1d((1, 30), 4), CNN1d((30,), 4)
    without.load_state_dict(dict(zip(without.state_dict(), with_channel.state_dict().values(), strict=True)))
    series = torch.randn(3, 30)
    assert torch.equal(without(series).logits, with_channel(series.unsqueeze(1)).logits)


@pytest.mark.parametrize("length", [1, 3, 7, 8, 200])
def test_any_length_will_do(length):
    assert CNN1d((3, length), 4)(torch.zeros(2, 3, length)).logits.shape == (2, 4)


def test_what_is_no_series_is_refused():
    with pytest.raises(ConfigurationError, match=r"needs series \[channels, time\] or \[time\]; .* is \[1, 8, 8\]"):
        CNN1d((1, 8, 8), 10)


@pytest.mark.parametrize("numbers", [{"kernel_size": 4}, {"channels": (8, 0)}, {"embedding_size": 0}])
def test_impossible_numbers_are_refused(numbers):
    with pytest.raises(ConfigurationError, match="is not possible; each must be at least 1, and kernel_size odd"):
        CNN1d((9, 128), 6, **numbers)
