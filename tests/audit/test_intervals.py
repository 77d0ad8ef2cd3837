import math

import numpy as np
import pytest
import torch

from fedfuse.audit.intervals import interval_of_groups, interval_of_mean, interval_of_ratio


def test_the_interval_is_that_of_a_mean():
    values = torch.from_numpy(np.random.default_rng(0).normal(5, 2, size=400))
    low, high = interval_of_mean(values, np.random.default_rng(1))
    margin = 1.96 * values.std(correction=0).item() / math.sqrt(400)
    assert low == pytest.approx(values.mean().item() - margin, abs=0.02)
    assert high == pytest.approx(values.mean().item() + margin, abs=0.02)


def test_equal_values_leave_no_doubt_and_few_values_much():
    assert interval_of_mean(torch.full((8,), 3.0), np.random.default_rng(0)) == (3.0, 3.0)
    assert interval_of_mean(torch.tensor([0.0, 1.0]), np.random.default_rng(0)) == (0.0, 1.0)


def test_one_stream_gives_one_interval():
    values = torch.arange(10.0)
    first, second = (interval_of_mean(values, np.random.default_rng(3)) for _ in range(2))
    assert first == second


def difference_of_means(first, second):
    return first.mean(1) - second.mean(1)


def test_the_interval_of_a_statistic_resamples_both_sides():
    drawn = np.random.default_rng(0)
    first, second = torch.from_numpy(drawn.normal(5, 2, size=400)), torch.from_numpy(drawn.normal(1, 1, size=300))
    low, high = interval_of_groups(difference_of_means, [(first, second)], np.random.default_rng(1))
    middle = (first.mean() - second.mean()).item()
    margin = 1.96 * math.sqrt(first.var().item() / 400 + second.var().item() / 300)
    assert (low, high) == (pytest.approx(middle - margin, abs=0.03), pytest.approx(middle + margin, abs=0.03))


def test_groups_keep_their_sizes_and_their_own_values():
    groups = [(torch.tensor([1.0]), torch.zeros(1)), (torch.full((3,), 5.0), torch.zeros(2))]
    assert interval_of_groups(difference_of_means, groups, np.random.default_rng(0)) == (4.0, 4.0)


def test_the_interval_of_a_ratio_draws_pairs_together():
    numerators = torch.tensor([1.0, 2.0, 4.0])
    assert interval_of_ratio(numerators, 2 * numerators, np.random.default_rng(0)) == (0.5, 0.5)
    low, high = interval_of_ratio(numerators, torch.ones(3), np.random.default_rng(0))
    assert (low, high) == (1.0, 4.0)
