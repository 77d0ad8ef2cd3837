import logging

import numpy as np
import pytest

from fedfuse.data.partitions.few_classes import pathological, shards
from fedfuse.data.samples import Population
from fedfuse.errors import ConfigurationError


def population(sizes):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return Population(labels, len(sizes), np.arange(len(labels)))


def label_counts(data, shares):
    return np.stack([np.bincount(data.labels[share], minlength=data.num_classes) for share in shares])


@pytest.mark.parametrize("classes_per_client", [1, 2, 3, 10])
@pytest.mark.parametrize("seed", range(3))
def test_every_client_has_exactly_so_many_classes_and_an_equal_share_of_each(classes_per_client, seed):
    data = population([60] * 10)
    shares = pathological(data, 20, seed, classes_per_client, min_samples=1)
    counts = label_counts(data, shares)
    assert ((counts > 0).sum(axis=1) == classes_per_client).all()
    for of_class in counts.T:
        sizes = of_class[of_class > 0]
        assert sizes.sum() == 60
        assert sizes.max() - sizes.min() <= 1


def test_the_first_classes_go_round_so_that_none_is_lost():
    data = population([30] * 5)
    counts = label_counts(data, pathological(data, 5, seed=4, classes_per_client=1))
    assert np.array_equal(counts, 30 * np.eye(5))


def test_classes_that_fewer_clients_did_not_draw_are_left_over():
    data = population([30] * 10)
    counts = label_counts(data, pathological(data, 2, seed=0, classes_per_client=2))
    assert 2 <= (counts.sum(axis=0) > 0).sum() <= 4
    assert set(counts.sum(axis=0)) == {0, 30}


@pytest.mark.parametrize("seed", range(5))
def test_classes_are_drawn_again_until_every_client_has_enough(seed):
    # Some draws give two rare classes to one client.
    data = population([10, 10, 100, 100, 100])
    assert min(map(len, pathological(data, 5, seed, classes_per_client=2, min_samples=25))) >= 25


def test_too_many_classes_a_client_are_refused():
    with pytest.raises(ConfigurationError, match=r"partition.classes_per_client=4 must be at most 3, the number"):
        pathological(population([20, 20, 20]), 3, 0, classes_per_client=4)
    with pytest.raises(ConfigurationError, match=r"partition.classes_per_client=1.5 must be a whole number"):
        pathological(population([20, 20, 20]), 3, 0, classes_per_client=1.5)


@pytest.mark.parametrize("sizes", [[2, 200], [15, 200]])
def test_classes_too_rare_for_their_clients_are_said_to_be(sizes):
    message = r"classes_per_client=1 gives each of 6 clients at least partition.min_samples=10 of \d+ samples; lower"
    with pytest.raises(ConfigurationError, match=message):
        pathological(population(sizes), 6, 0, classes_per_client=1)


@pytest.mark.parametrize("seed", range(3))
def test_clients_have_equally_many_shards_of_one_size(seed):
    data = population([100] * 10)
    shares = shards(data, 10, seed, shards_per_client=2)
    # Each of 20 shards of 50 lies in one class.
    assert {len(share) for share in shares} == {100}
    assert set(label_counts(data, shares).ravel()) <= {0, 50, 100}


@pytest.mark.parametrize(("num_clients", "left_over"), [(10, 18), (60, 58)])
def test_what_division_leaves_over_is_drawn_from_all_classes(num_clients, left_over):
    data = population([114] * 9 + [112])
    lost = np.zeros(10)
    for seed in range(10):
        shares = shards(data, num_clients, seed, shards_per_client=2, min_samples=1)
        counts = label_counts(data, shares)
        lost += np.array([114] * 9 + [112]) - counts.sum(axis=0)
        assert {len(share) for share in shares} == {2 * (1138 // (2 * num_clients))}
    assert lost.sum() == 10 * left_over
    assert (lost > 0).all()
    assert lost.max() < 0.3 * lost.sum()


def test_shards_too_small_are_refused_with_their_size():
    message = (
        r"60 shards of 200 samples have 3 each, which gives a client 9 with partition.shards_per_client=3, and not"
    )
    with pytest.raises(ConfigurationError, match=message):
        shards(population([100, 100]), 20, 0, shards_per_client=3, min_samples=10)


@pytest.mark.parametrize("partition", [pathological, shards])
def test_nothing_is_printed_logged_or_warned(partition, capfd, caplog):
    caplog.set_level(logging.INFO)
    partition(population([30] * 10), 3, seed=0)
    assert capfd.readouterr() == ("", "")
    assert caplog.messages == []
