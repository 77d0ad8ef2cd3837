from pathlib import Path

import numpy as np
import pytest

from fedfuse.assembly import deal_data
from fedfuse.composition import compose
from fedfuse.data.partitions.domains import by_domain, dirichlet_in_domain
from fedfuse.data.samples import Groups, Population
from fedfuse.errors import ConfigurationError

OFFICE = Path(__file__).parents[4] / "shared" / "data" / "office_caltech10"
BOTH = [by_domain, dirichlet_in_domain]


def population(sizes, num_classes=4):
    domains = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    labels = np.random.default_rng(1).integers(num_classes, size=len(domains))
    names = ("amazon", "dslr", "webcam")[: len(sizes)]
    return Population(labels, num_classes, np.arange(len(labels)), domains=Groups(names, domains))


def largest_share(data, shares):
    counts = np.stack([np.bincount(data.labels[share], minlength=data.num_classes) for share in shares])
    return (counts.max(axis=1) / counts.sum(axis=1)).mean()


@pytest.mark.parametrize("partition", BOTH)
def test_a_client_has_one_domain_and_the_first_clients_have_the_first(partition):
    data = population([200, 300, 100])
    shares = partition(data, 6, seed=0)
    domains = [set(data.domains.members[share].tolist()) for share in shares]
    assert domains == [{0}, {0}, {1}, {1}, {2}, {2}]
    assert np.array_equal(np.sort(np.concatenate(shares)), np.arange(600))


def test_by_domain_clients_of_a_domain_have_equally_many_samples():
    assert [len(share) for share in by_domain(population([200, 301, 100]), 6, 0)] == [100, 100, 151, 150, 50, 50]


def test_dirichlet_in_domain_skews_the_labels_inside_each_domain():
    data = population([400, 400])
    assert largest_share(data, by_domain(data, 6, 0)) < 0.4
    assert largest_share(data, dirichlet_in_domain(data, 6, 0, alpha=0.1)) > 0.6
    assert largest_share(data, dirichlet_in_domain(data, 6, 0, alpha=1000.0)) < 0.4


@pytest.mark.parametrize("partition", BOTH)
def test_domains_with_the_same_labels_are_drawn_from_differently(partition):
    labels = np.tile(np.arange(4), 200)
    domains = Groups(("amazon", "dslr"), np.repeat([0, 1], 400))
    shares = partition(Population(labels, 4, np.arange(800), domains=domains), 4, seed=0)
    assert not np.array_equal(np.sort(shares[0]), np.sort(shares[2] - 400))


@pytest.mark.parametrize("partition", BOTH)
def test_a_domain_without_samples_needs_no_clients(partition):
    data = population([200, 200, 0])
    assert len(partition(data, 4, seed=0)) == 4


@pytest.mark.parametrize("partition", BOTH)
def test_a_number_of_clients_that_does_not_go_round_is_refused(partition):
    message = r"num_clients=5 must be a multiple of 3, the number of domains \(amazon, dslr, webcam\)"
    with pytest.raises(ConfigurationError, match=message):
        partition(population([200, 300, 100]), 5, 0)


@pytest.mark.parametrize("partition", BOTH)
def test_a_domain_with_too_few_samples_is_named(partition):
    with pytest.raises(
        ConfigurationError, match=r"^Domain dslr: 4 clients of at least partition.min_samples=10 need 40"
    ):
        partition(population([200, 30, 100]), 12, 0)


@pytest.mark.parametrize("partition", BOTH)
def test_data_without_domains_is_refused_in_one_line(partition):
    data = Population(np.zeros(20, dtype=np.int64), 2, np.arange(20))
    with pytest.raises(ConfigurationError, match="has no domains; take another partition"):
        partition(data, 2, 0)


@pytest.mark.skipif(not OFFICE.is_dir(), reason="the data set is not here")
def test_the_domains_of_the_office_photographs_are_clients_of_their_own():
    words = ["data=office_caltech10", f"data.path={OFFICE}", "num_clients=8", "partition=dirichlet_in_domain"]
    dealt = deal_data(compose(words))
    assert [set(own.domains.members.tolist()) for own in dealt.clients] == [{client // 2} for client in range(8)]
    assert dealt.num_unused == 0
