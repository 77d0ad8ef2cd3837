"""What every partition promises, for populations that hypothesis makes up."""

from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from fedfuse.data.partitions.dirichlet import dirichlet
from fedfuse.data.partitions.domains import by_domain, dirichlet_in_domain
from fedfuse.data.partitions.few_classes import pathological, shards
from fedfuse.data.partitions.iid import iid
from fedfuse.data.partitions.natural import natural
from fedfuse.data.partitions.size_skew import size_exponential, size_linear
from fedfuse.data.samples import Groups, Population
from fedfuse.errors import ConfigurationError

CONFIGS = Path(__file__).parents[3] / "configs" / "partition"
ALL = [
    iid,
    dirichlet,
    pathological,
    shards,
    size_linear,
    size_exponential,
    natural,
    by_domain,
    dirichlet_in_domain,
]
few_examples = settings(max_examples=12, deadline=None, derandomize=True)


@st.composite
def populations(draw):
    """Draw 30 to 400 samples of 2 to 6 classes, of people and of two domains."""
    number = draw(st.integers(30, 400))
    num_classes, num_people = draw(st.integers(2, 6)), draw(st.integers(2, 12))
    generator = np.random.default_rng(draw(st.integers(0, 1000)))
    return Population(
        labels=generator.integers(num_classes, size=number),
        num_classes=num_classes,
        positions=np.sort(generator.choice(1000, number, replace=False)),
        natural_clients=Groups(
            tuple(f"person {i}" for i in range(num_people)), generator.integers(num_people, size=number)
        ),
        domains=Groups(("photo", "sketch"), np.arange(number) % 2),
    )


def same(one, two):
    return len(one) == len(two) and all(map(np.array_equal, one, two))


def loss(partition, population, num_clients, shares):
    """Say how many samples the docstring of the partition allows to be left over."""
    if partition is natural:
        members = population.natural_clients.members
        return len(population) - np.isin(members, [members[share[0]] for share in shares]).sum()
    if partition is pathological:
        held = np.unique(population.labels[np.concatenate(shares)])
        assert num_clients < population.num_classes or len(held) == len(np.unique(population.labels))
        return (~np.isin(population.labels, held)).sum()
    return len(population) % (2 * num_clients) if partition is shards else 0


@pytest.mark.parametrize("partition", ALL)
@few_examples
@given(
    population=populations(), num_clients=st.sampled_from([2, 4, 6]), min_samples=st.integers(1, 6), seed=st.integers(0)
)
def test_each_sample_goes_to_one_client_at_most_and_each_client_has_enough(
    partition, population, num_clients, min_samples, seed
):
    try:
        shares = partition(population, num_clients, seed, min_samples=min_samples)
    except ConfigurationError as error:
        assert "\n" not in str(error)
        return
    given_out = np.concatenate(shares)
    assert len(shares) == num_clients
    assert min(map(len, shares)) >= min_samples
    assert len(np.unique(given_out)) == len(given_out)
    assert np.isin(given_out, np.arange(len(population))).all()
    assert len(population) - len(given_out) == loss(partition, population, num_clients, shares)


def fixed_population():
    generator = np.random.default_rng(5)
    return Population(
        labels=generator.integers(5, size=600),
        num_classes=5,
        positions=np.arange(600),
        natural_clients=Groups(tuple("abcdefghijkl"), generator.integers(12, size=600)),
        domains=Groups(("photo", "sketch"), generator.integers(2, size=600)),
    )


@pytest.mark.parametrize("partition", ALL)
def test_the_seed_decides_and_another_seed_gives_another_partition(partition):
    population = fixed_population()
    first, again, other = (partition(population, 6, seed) for seed in (1, 1, 2))
    assert same(first, again)
    assert not same([np.sort(share) for share in first], [np.sort(share) for share in other])


@pytest.mark.parametrize("partition", ALL)
def test_the_samples_of_a_client_are_in_random_order(partition):
    for share in partition(fixed_population(), 6, 3):
        assert not np.array_equal(share, np.sort(share))


@pytest.mark.parametrize("partition", ALL)
def test_mistakes_in_numbers_are_named(partition):
    with pytest.raises(ConfigurationError, match="num_clients=0 must be a whole number of at least 1"):
        partition(fixed_population(), 0, 0)
    with pytest.raises(ConfigurationError, match=r"partition.min_samples=0 must be a whole number of at least 1"):
        partition(fixed_population(), 2, 0, min_samples=0)
    with pytest.raises(ConfigurationError, match=r"partition.min_samples=500"):
        partition(fixed_population(), 2, 0, min_samples=500)


@pytest.mark.parametrize("partition", ALL)
def test_the_configuration_of_its_name_has_its_arguments(partition):
    configured = instantiate(OmegaConf.load(CONFIGS / f"{partition.__name__}.yaml"), _partial_=True)
    assert configured.func is partition
    assert set(configured.keywords) == set(partition.__code__.co_varnames[3 : partition.__code__.co_argcount])
    assert len(configured(fixed_population(), 6, 0)) == 6
