import numpy as np
import pytest

from fedfuse.data.partitions.size_skew import size_exponential, size_linear
from fedfuse.data.samples import Population
from fedfuse.errors import ConfigurationError


def population(number):
    return Population(np.arange(number) % 4, 4, np.arange(number))


def sizes(shares):
    return [len(share) for share in shares]


def test_linear_sizes_grow_by_one_share_a_client_and_the_last_has_the_remainder():
    assert sizes(size_linear(population(100), 4, 0)) == [10, 20, 30, 40]
    assert sizes(size_linear(population(109), 4, 0)) == [10, 21, 32, 46]


def test_exponential_sizes_grow_by_the_same_factor():
    assert sizes(size_exponential(population(150), 4, 0, growth=2)) == [10, 20, 40, 80]
    assert sizes(size_exponential(population(150), 3, 0, growth=1)) == [50, 50, 50]


def test_many_clients_do_not_overflow():
    shares = size_exponential(population(20000), 1000, 0, growth=1.001)
    assert sizes(shares)[0] == 11
    with pytest.raises(ConfigurationError, match=r"the first client would have 0 with partition.growth=1000,"):
        size_exponential(population(20000), 1000, 0, growth=1000)


def test_clients_have_the_label_mix_of_all():
    data = population(4000)
    for share in (*size_linear(data, 4, 0), *size_exponential(data, 4, 0, growth=1.5)):
        assert np.abs(np.bincount(data.labels[share], minlength=4) / len(share) - 0.25).max() < 0.06


def test_a_first_client_with_too_few_samples_is_said_to_be():
    message = (
        r"Of 100 samples the first client would have 10, and not partition.min_samples=11; lower min_samples, or take"
    )
    with pytest.raises(ConfigurationError, match=message):
        size_linear(population(100), 4, 0, min_samples=11)
    message = (
        r"the first client would have 10 with partition.growth=2, .*min_samples=11; lower growth or min_samples, or"
    )
    with pytest.raises(ConfigurationError, match=message):
        size_exponential(population(150), 4, 0, growth=2, min_samples=11)


@pytest.mark.parametrize("growth", [0.9, 1001, float("nan"), float("inf")])
def test_a_growth_out_of_its_range_is_refused(growth):
    with pytest.raises(ConfigurationError, match=rf"partition.growth={growth} must be a number from 1 to 1000"):
        size_exponential(population(100), 2, 0, growth=growth)
