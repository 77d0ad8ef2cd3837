from pathlib import Path

import numpy as np
import pytest

from fedfuse.assembly import deal_data
from fedfuse.composition import compose
from fedfuse.data.description import neighbours_apart
from fedfuse.data.partitions.natural import natural
from fedfuse.data.samples import Groups, Population
from fedfuse.errors import ConfigurationError

HAR = Path(__file__).parents[4] / "shared" / "data" / "har"


def population(sizes):
    """Make people with so many samples each, in mixed order."""
    members = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    names = tuple(f"person {person}" for person in range(len(sizes)))
    return Population(np.zeros(len(members), dtype=np.int64), 2, np.arange(len(members)), Groups(names, members))


def people(data, shares):
    return [set(data.natural_clients.members[share].tolist()) for share in shares]


def test_every_client_is_one_person_with_all_samples_in_the_order_of_the_data():
    data = population([10, 30, 20])
    shares = natural(data, 3, seed=0)
    assert people(data, shares) == [{0}, {1}, {2}]
    assert [len(share) for share in shares] == [10, 30, 20]


def test_fewer_clients_are_drawn_and_the_samples_of_the_others_left_over():
    data = population([10, 11, 12, 13, 14, 15])
    drawn = {tuple(one.pop() for one in people(data, natural(data, 2, seed))) for seed in range(20)}
    assert len(drawn) > 5
    assert all(first < second for first, second in drawn)
    assert all(len(share) in range(10, 16) for share in natural(data, 2, 0))


def test_people_with_too_few_samples_are_never_drawn():
    data = population([9, 30, 0, 10])
    for seed in range(10):
        assert people(data, natural(data, 2, seed, min_samples=10)) == [{1}, {3}]


def test_more_clients_than_people_are_told_how_many_there_are():
    with pytest.raises(ConfigurationError, match=r"^2 of the data's 3 natural .*num_clients=3; say num_clients=2\.$"):
        natural(population([9, 10, 11]), 3, 0)
    with pytest.raises(
        ConfigurationError, match=r"^0 of the data's 2 natural .*min_samples=50 .*; lower min_samples\.$"
    ):
        natural(population([10, 11]), 1, 0, min_samples=50)


def test_data_without_people_is_refused_in_one_line():
    data = Population(np.zeros(20, dtype=np.int64), 2, np.arange(20))
    with pytest.raises(ConfigurationError, match="does not say whom its samples are from; take another partition"):
        natural(data, 2, 0)


def test_ten_thousand_clients_have_what_is_theirs():
    data = population([50] * 10_000)
    shares = natural(data, 10_000, seed=0)
    assert np.array_equal(
        data.natural_clients.members[np.stack(shares)], np.repeat(np.arange(10_000), 50).reshape(-1, 50)
    )


@pytest.mark.skipif(not HAR.is_dir(), reason="the data set is not here")
def test_the_people_of_the_activity_recordings_are_clients_who_share_no_neighbours_in_time():
    dealt = deal_data(compose(["data=har", f"data.path={HAR}", "split.samples=4000"]))
    assert [set(own.natural_clients.members.tolist()) for own in dealt.clients] == [{person} for person in range(30)]
    every_window = np.concatenate([own.order for own in dealt.clients])
    owners = np.repeat(np.arange(30), [len(own.samples) for own in dealt.clients])
    assert neighbours_apart(every_window, tuple(np.flatnonzero(owners == client) for client in range(30))) == 0
