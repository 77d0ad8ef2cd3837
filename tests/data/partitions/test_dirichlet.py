import logging
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from fedfuse.data.partitions.dirichlet import dirichlet
from fedfuse.data.samples import Population
from fedfuse.errors import ConfigurationError

CONFIGS = Path(__file__).parents[3] / "configs" / "partition"
LABELS = np.repeat(np.arange(10), 120)


def population(labels):
    return Population(labels, int(labels.max()) + 1, np.arange(len(labels)))


DATA = population(LABELS)


def label_mixes(shares):
    counts = np.stack([np.bincount(LABELS[share], minlength=10) for share in shares])
    return counts / counts.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("num_clients", [1, 7, 10])
def test_every_sample_goes_to_exactly_one_client(num_clients):
    shares = dirichlet(DATA, num_clients, seed=3)
    assert len(shares) == num_clients
    assert np.array_equal(np.sort(np.concatenate(shares)), np.arange(1200))


def test_the_seed_decides_the_partition():
    first, again, other = (dirichlet(DATA, 5, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert not any(np.array_equal(np.sort(one), np.sort(two)) for one, two in zip(first, other, strict=True))


def test_small_alpha_gives_few_classes_and_large_alpha_all_alike():
    biggest_class = {
        alpha: label_mixes(dirichlet(DATA, 5, seed=0, alpha=alpha)).max(axis=1).mean() for alpha in (0.1, 1000.0)
    }
    assert biggest_class[0.1] > 0.3
    assert biggest_class[1000.0] < 0.15


def test_self_balancing_keeps_clients_from_growing_far_beyond_the_average():
    largest = {
        balanced: max(len(share) for share in dirichlet(DATA, 10, seed=0, alpha=0.3, self_balancing=balanced))
        for balanced in (True, False)
    }
    assert largest[True] < 240 < largest[False]


@pytest.mark.parametrize("seed", range(10))
def test_skewed_draws_are_repeated_until_every_client_has_enough(seed):
    shares = dirichlet(DATA, 10, seed, alpha=0.05, min_samples=20)
    assert min(len(share) for share in shares) >= 20


def test_an_impossible_draw_says_its_values_and_what_to_change():
    message = (
        r"partition.alpha=0.1 gives each of 10 clients at least partition.min_samples=119 of 1200 samples; "
        r"raise alpha, lower min_samples or take fewer clients"
    )
    with pytest.raises(ConfigurationError, match=message):
        dirichlet(DATA, 10, seed=0, alpha=0.1, min_samples=119)


@pytest.mark.parametrize("seed", range(5))
def test_a_class_that_only_full_clients_drew_is_drawn_again_rather_than_given_to_the_last(seed):
    # At such an alpha one client draws all of a class; the client with the class of 60 is full by then.
    shares = dirichlet(population(np.repeat([0, 1, 2], [60, 20, 20])), 2, seed, alpha=1e-4, min_samples=1)
    assert sorted(len(share) for share in shares) == [40, 60]


@pytest.mark.parametrize("alpha", [0, -1.0, float("inf"), float("nan")])
def test_alpha_must_be_a_positive_number(alpha):
    with pytest.raises(ConfigurationError, match=rf"partition.alpha={alpha} must be a positive number"):
        dirichlet(DATA, 5, seed=0, alpha=alpha)


def test_nothing_is_printed_logged_or_warned(capfd, caplog):
    caplog.set_level(logging.INFO)
    dirichlet(DATA, 10, seed=0, alpha=0.05, min_samples=20)
    assert capfd.readouterr() == ("", "")
    assert caplog.messages == []


def test_the_configuration_names_it_and_its_arguments():
    partition = instantiate(OmegaConf.load(CONFIGS / "dirichlet.yaml"), _partial_=True)
    assert partition.func is dirichlet
    assert partition.keywords == {"alpha": 0.5, "min_samples": 20, "self_balancing": True}
