import logging
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from fedfuse.data.partition import dirichlet, iid
from fedfuse.errors import ConfigurationError

CONFIGS = Path(__file__).parents[2] / "configs" / "partition"
LABELS = np.repeat(np.arange(10), 120)


def label_mixes(shares):
    counts = np.stack([np.bincount(LABELS[share], minlength=10) for share in shares])
    return counts / counts.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("partition", [iid, dirichlet])
@pytest.mark.parametrize("num_clients", [1, 7, 10])
def test_every_sample_goes_to_exactly_one_client(partition, num_clients):
    shares = partition(LABELS, num_clients, seed=3)
    assert len(shares) == num_clients
    assert np.array_equal(np.sort(np.concatenate(shares)), np.arange(1200))


@pytest.mark.parametrize("partition", [iid, dirichlet])
def test_the_seed_decides_the_partition(partition):
    first, again, other = (partition(LABELS, 5, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert not any(np.array_equal(np.sort(one), np.sort(two)) for one, two in zip(first, other, strict=True))


def test_iid_sizes_differ_by_one_at_most():
    assert sorted(len(share) for share in iid(LABELS, 7, seed=0)) == [171, 171, 171, 171, 172, 172, 172]


def test_iid_clients_have_all_classes_although_the_labels_are_sorted():
    assert label_mixes(iid(LABELS, 5, seed=0)).min() > 0.05


def test_small_alpha_gives_few_classes_and_large_alpha_all_alike():
    biggest_class = {
        alpha: label_mixes(dirichlet(LABELS, 5, seed=0, alpha=alpha)).max(axis=1).mean() for alpha in (0.1, 1000.0)
    }
    assert biggest_class[0.1] > 0.3
    assert biggest_class[1000.0] < 0.15


def test_self_balancing_keeps_clients_from_growing_far_beyond_the_average():
    largest = {
        balanced: max(len(share) for share in dirichlet(LABELS, 10, seed=0, alpha=0.3, self_balancing=balanced))
        for balanced in (True, False)
    }
    assert largest[True] < 240 < largest[False]


@pytest.mark.parametrize("seed", range(10))
def test_skewed_draws_are_repeated_until_every_client_has_enough(seed):
    shares = dirichlet(LABELS, 10, seed, alpha=0.05, min_samples=20)
    assert min(len(share) for share in shares) >= 20


def test_an_impossible_draw_says_its_values_and_what_to_change():
    message = (
        r"partition.alpha=0.1 gives each of 10 clients at least partition.min_samples=119 of 1200 samples; "
        r"raise alpha, lower min_samples or take fewer clients"
    )
    with pytest.raises(ConfigurationError, match=message):
        dirichlet(LABELS, 10, seed=0, alpha=0.1, min_samples=119)


@pytest.mark.parametrize("seed", range(5))
def test_a_class_that_only_full_clients_drew_is_drawn_again_rather_than_given_to_the_last(seed):
    # At such an alpha one client draws all of a class; the client with the class of 60 is full by then.
    shares = dirichlet(np.repeat([0, 1, 2], [60, 20, 20]), 2, seed, alpha=1e-4, min_samples=1)
    assert sorted(len(share) for share in shares) == [40, 60]


@pytest.mark.parametrize("alpha", [0, -1.0, float("inf"), float("nan")])
def test_alpha_must_be_a_positive_number(alpha):
    with pytest.raises(ConfigurationError, match=rf"partition.alpha={alpha} must be a positive number"):
        dirichlet(LABELS, 5, seed=0, alpha=alpha)


@pytest.mark.parametrize("partition", [iid, dirichlet])
def test_values_that_cannot_work_are_refused(partition):
    with pytest.raises(ConfigurationError, match="num_clients=0 must be at least 1"):
        partition(LABELS, 0, seed=0)
    with pytest.raises(ConfigurationError, match="min_samples=0 must be at least 1"):
        partition(LABELS, 5, seed=0, min_samples=0)
    with pytest.raises(ConfigurationError, match=r"1201 clients .*min_samples=1 need 1201 samples and there are 1200"):
        partition(LABELS, 1201, seed=0, min_samples=1)


def test_nothing_is_printed_logged_or_warned(capfd, caplog):
    caplog.set_level(logging.INFO)
    dirichlet(LABELS, 10, seed=0, alpha=0.05, min_samples=20)
    iid(LABELS, 10, seed=0)
    assert capfd.readouterr() == ("", "")
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("dirichlet", {"alpha": 0.5, "min_samples": 20, "self_balancing": True}),
        ("iid", {"min_samples": 10}),
    ],
)
def test_the_configurations_name_their_partition(name, arguments):
    partition = instantiate(OmegaConf.load(CONFIGS / f"{name}.yaml"), _partial_=True)
    assert (partition.func.__name__, partition.keywords) == (name, arguments)
