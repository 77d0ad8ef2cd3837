import math

import numpy as np
import pytest
import torch

from fedfuse.audit.intervals import interval_of_mean


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
