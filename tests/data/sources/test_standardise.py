import numpy as np
import pytest

from fedfuse.data.sources.standardise import standardise


def test_columns_have_mean_0_and_deviation_1():
    features = np.random.default_rng(0).normal(5, 3, (40, 3)) * [1, 1e-3, 1e4]
    standardised = standardise(features)
    assert standardised.dtype == np.float32
    assert standardised == pytest.approx((features - features.mean(0)) / features.std(0), abs=1e-5)


def test_a_constant_column_becomes_zero_whatever_its_rounding():
    assert standardise(np.full((7, 2), 0.1)).tolist() == [[0, 0]] * 7


def test_large_numbers_keep_their_differences():
    seconds = 1.7e9 + np.array([[0.0], [1.0], [2.0], [3.0]])
    assert standardise(seconds)[:, 0] == pytest.approx(np.array([-3, -1, 1, 3]) / 5**0.5)
