import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfuse.sampling import participants


@pytest.mark.parametrize(
    ("clients", "fraction", "minimum", "expected"),
    [
        (10, 0.3, 1, 3),
        (30, 0.1, 1, 3),
        (10, 0.31, 1, 4),
        (10, 0.01, 1, 1),
        # In floating point 0.07 * 100 and 0.55 * 100 are a little more than 7 and 55.
        (100, 0.07, 1, 7),
        (100, 0.55, 1, 55),
        (100, 0.071, 1, 8),
        (10, 0.1, 4, 4),
        (10, 0.5, 4, 5),
        (3, 0.1, 8, 3),
        (10, 1e-12, 0, 1),
        (10, 1.0, 1, 10),
        (0, 1.0, 1, 0),
    ],
)
def test_number_of_clients_is_rounded_up_and_kept_between_minimum_and_all(clients, fraction, minimum, expected):
    assert len(participants(range(clients), fraction, minimum, seed=0, round=1)) == expected


def test_draws_never_change_because_old_runs_must_stay_reproducible():
    assert participants(range(10), 0.3, 1, seed=0, round=1) == (0, 2, 5)
    assert participants(range(10), 0.3, 1, seed=0, round=2) == (3, 7, 8)


def test_everybody_takes_part_when_all_are_wanted():
    assert participants([5, 3, 9], 1.0, 1, seed=0, round=1) == (3, 5, 9)
    assert participants([5, 3, 9], 0.1, 3, seed=0, round=1) == (3, 5, 9)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    client_ids=st.sets(st.integers(0, 1000), min_size=1, max_size=30),
    fraction=st.floats(0.01, 1),
    seed=st.integers(0, 100),
    round=st.integers(1, 100),
    shuffled=st.randoms(use_true_random=False),
)
def test_clients_are_ascending_distinct_and_independent_of_the_order_of_ids(
    client_ids, fraction, seed, round, shuffled
):
    in_order = sorted(client_ids)
    in_disorder = list(in_order)
    shuffled.shuffle(in_disorder)
    chosen = participants(in_order, fraction, 1, seed, round)
    assert chosen == participants(in_disorder, fraction, 1, seed, round)
    assert list(chosen) == sorted(set(chosen))
    assert set(chosen) <= client_ids


def test_rounds_and_seeds_draw_differently():
    by_round = {participants(range(100), 0.5, 1, seed=0, round=round) for round in range(1, 21)}
    by_seed = {participants(range(100), 0.5, 1, seed=seed, round=1) for seed in range(20)}
    assert len(by_round) == len(by_seed) == 20


def test_every_client_is_drawn_about_equally_often():
    drawn = [client for round in range(1, 501) for client in participants(range(10), 0.3, 1, seed=0, round=round)]
    # 500 rounds of 3 in 10: the mean is 150, a standard deviation 10.
    assert all(110 < drawn.count(client) < 190 for client in range(10))


def test_the_draw_leaves_other_random_streams_alone():
    random.seed(0)
    before = random.getstate()
    participants(range(10), 0.3, 1, seed=0, round=1)
    assert random.getstate() == before
