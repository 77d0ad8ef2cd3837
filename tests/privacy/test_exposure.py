import dataclasses
import math

import pytest
import torch
from protection import EXPOSURE

from fedfuse.privacy.exposure import SIMPLEX_DIAMETER


def test_no_two_soft_labels_are_further_apart_than_two_certain_ones():
    certain = torch.eye(4, dtype=torch.float64)
    assert torch.cdist(certain, certain).max().item() == pytest.approx(SIMPLEX_DIAMETER)
    soft = torch.softmax(9 * torch.randn(200, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), 1)
    assert torch.cdist(soft, soft).max().item() <= SIMPLEX_DIAMETER
    assert math.sqrt(2) == SIMPLEX_DIAMETER


def test_without_a_bound_soft_labels_can_be_as_far_apart_as_they_come_and_counts_are_not_known():
    assert EXPOSURE.sensitivity == SIMPLEX_DIAMETER
    assert EXPOSURE.num_examples is None
    assert EXPOSURE.secure


def test_what_is_released_cannot_be_changed_afterwards():
    with pytest.raises(dataclasses.FrozenInstanceError):
        EXPOSURE.num_rounds = 1
