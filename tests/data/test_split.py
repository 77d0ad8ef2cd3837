import numpy as np
import pytest

from fedfuse.data.samples import Groups, Population
from fedfuse.data.split import split as split_population
from fedfuse.errors import ConfigurationError

DEFAULT_PARTS = (0.6, 0.15, 0.25)


def split(labels, fractions=DEFAULT_PARTS, seed=0, **known):
    labels = np.asarray(labels)
    population = Population(labels, int(labels.max(initial=0)) + 1, np.arange(len(labels)), **known)
    return split_population(population, fractions, np.random.default_rng(seed))


def test_every_position_is_in_one_part_and_sizes_and_label_mixes_are_within_one_sample():
    generator = np.random.default_rng(0)
    for trial in range(300):
        labels = np.repeat(np.arange(12), generator.integers(0, generator.choice([2, 4, 40]), 12))
        num_parts = generator.integers(2, 4)
        fractions = generator.dirichlet(np.ones(num_parts))
        parts = split(labels, fractions, seed=trial)
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
        for part, fraction in zip(parts, fractions, strict=True):
            assert abs(len(part) - fraction * len(labels)) < 1
            counts = np.bincount(labels[part], minlength=12)
            assert (abs(counts - fraction * np.bincount(labels, minlength=12)) < 1).all()


def test_shares_that_are_whole_numbers_are_met_exactly():
    labels = np.repeat([0, 1, 2], [20, 40, 100])
    counts = [np.bincount(labels[part]).tolist() for part in split(labels)]
    assert counts == [[12, 24, 60], [3, 6, 15], [5, 10, 25]]


def test_a_share_that_is_a_whole_number_is_met_whatever_other_classes_leave_over():
    # In floating point 0.07 * 100 is a little more than 7.
    for seed in range(30):
        small = np.repeat(np.arange(5), np.random.default_rng(seed).integers(1, 9, 5))
        labels = np.concatenate([small, np.full(100, 5)])
        assert (labels[split(labels, (0.07, 0.465, 0.465), seed)[0]] == 5).sum() == 7


def test_samples_left_over_by_rounding_fill_up_the_sizes():
    # Each class of 3 has exact shares 1.8, 0.45 and 0.75.
    labels = np.repeat(np.arange(20), 3)
    assert [len(part) for part in split(labels)] == [36, 9, 15]


@pytest.mark.parametrize("fractions", [DEFAULT_PARTS, (0.2, 0.8)])
def test_a_class_with_one_sample_goes_to_the_first_part(fractions):
    for seed in range(50):
        others = np.repeat(np.arange(1, 9), np.random.default_rng(seed).integers(2, 9, 8))
        assert 0 in split([0, *others], fractions, seed)[0]


def test_many_classes_with_one_sample_leave_no_part_empty():
    assert [len(part) for part in split(np.arange(20))] == [12, 3, 5]


def test_a_part_is_in_random_order_and_the_generator_decides_it():
    labels = np.repeat([0, 1], 50)
    first, again, other = (split(labels, seed=seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(np.sort(first), np.sort(other))
    assert (np.diff(labels[first]) != 0).sum() > 10


def test_no_samples_give_empty_parts():
    assert [part.tolist() for part in split(np.empty(0, dtype=np.int64))] == [[], [], []]


@pytest.mark.parametrize("fractions", [(0.5, 0.6), (1.2, -0.2)])
def test_fractions_that_are_no_shares_of_a_whole_are_refused(fractions):
    with pytest.raises(ConfigurationError, match="must be at least 0 and sum to 1"):
        split([0, 1], fractions)


# Recordings


def one_recording_a_class(lengths):
    labels = np.repeat(np.arange(len(lengths)), lengths)
    return labels, np.arange(len(labels)) + labels


def test_recordings_are_cut_into_stretches_of_time():
    labels, order = one_recording_a_class([40, 60])
    for seed in range(20):
        parts = split(labels, (0.5, 0.5), seed, order=order)
        for label, length in ((0, 40), (1, 60)):
            times = [np.sort(order[part[labels[part] == label]]) for part in parts]
            for stretch in times:
                assert np.array_equal(stretch, np.arange(stretch[0], stretch[0] + len(stretch)))
            # One sample at the cut is left out.
            assert sum(map(len, times)) == length - 1
            assert sorted(map(len, times)) == [length // 2 - 1, length // 2]


def test_which_part_comes_first_in_time_is_drawn():
    labels, order = one_recording_a_class([40])
    first = {int(order[split(labels, (0.5, 0.5), seed, order=order)[0]].min()) for seed in range(20)}
    assert first in ({0, 20}, {0, 21}, {0, 20, 21})


def test_of_two_neighbours_across_a_cut_the_one_in_the_larger_part_is_left_out():
    labels, order = one_recording_a_class([100])
    for seed in range(10):
        large, small = split(labels, (0.9, 0.1), seed, order=order)
        assert (len(large), len(small)) == (89, 10)


def test_samples_with_a_gap_between_them_are_all_kept():
    labels = np.zeros(50, dtype=np.int64)
    parts = split(labels, (0.6, 0.4), order=np.arange(50) * 2)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(50))


def test_neighbours_of_different_classes_do_not_stand_on_both_sides_either():
    labels = np.repeat([0, 1], 20)
    order = np.arange(40)
    for seed in range(10):
        one, two = (set(order[part].tolist()) for part in split(labels, (0.5, 0.5), seed, order=order))
        assert not any(time + 1 in two or time - 1 in two for time in one)


def test_each_persons_recordings_are_cut():
    labels = np.zeros(60, dtype=np.int64)
    people = np.repeat([0, 1, 2], 20)
    parts = split(labels, (0.5, 0.5), order=np.arange(60) + people, natural_clients=Groups(("A", "B", "C"), people))
    for part in parts:
        assert (np.bincount(people[part], minlength=3) >= 9).all()
