import numpy as np
import pytest
import torch

from fedfuse import catalogue
from fedfuse.components import build
from fedfuse.configuration import Component


@pytest.fixture(params=catalogue.names("transfer/policy", catalogue.folders()))
def policy(request):
    """Every transfer policy that is shipped, as its file configures it."""
    values = catalogue.read("transfer/policy", request.param, catalogue.folders())
    return build(Component(request.param, values.pop("_target_"), values), "transfer policy")


def test_every_shipped_policy_is_tested():
    assert {"all", "random_subset"} <= set(catalogue.names("transfer/policy", catalogue.folders()))


@pytest.mark.parametrize("num_samples", [1, 2, 3, 100])
def test_rows_are_ascending_distinct_and_of_the_transfer_set(policy, num_samples):
    rows = policy(num_samples, np.random.default_rng(0))
    assert rows.dtype == torch.int64
    assert rows.ndim == 1
    assert len(rows) >= 1
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert 0 <= rows[0] <= rows[-1] < num_samples


def test_the_same_stream_gives_the_same_rows(policy):
    assert torch.equal(policy(100, np.random.default_rng(3)), policy(100, np.random.default_rng(3)))
