import math

import pytest
import torch

from fedfuse.audit.exposure import exposures, exposures_of_strangers


def test_exposure_is_the_logarithm_of_all_candidates_less_that_of_the_rank():
    others = torch.tensor([[2.0, 3.0, 4.0]]).expand(3, -1)
    assert exposures(torch.tensor([1.0, 2.5, 9.0]), others).tolist() == pytest.approx([2, 1, 0])


def test_each_secret_has_candidates_of_its_own():
    others = torch.tensor([[0.0, 0.0, 0.0], [9.0, 9.0, 9.0]])
    assert exposures(torch.tensor([1.0, 1.0]), others).tolist() == pytest.approx([0, 2])


def test_equal_losses_share_the_middle_rank():
    assert exposures(torch.tensor([1.0]), torch.ones(1, 7)).item() == pytest.approx(3 - math.log2(4.5))
    assert exposures_of_strangers(torch.ones(8)).tolist() == pytest.approx([3 - math.log2(4.5)] * 8)


def test_strangers_are_ranked_among_each_other():
    losses = torch.tensor([3.0, 1.0, 4.0, 2.0])
    assert exposures_of_strangers(losses).tolist() == pytest.approx([2 - math.log2(3), 2, 0, 1])
    one_by_one = [exposures(losses[i : i + 1], torch.cat([losses[:i], losses[i + 1 :]])[None]).item() for i in range(4)]
    assert exposures_of_strangers(losses).tolist() == pytest.approx(one_by_one)


def test_strangers_have_an_exposure_of_log2_of_e_on_average():
    losses = torch.randperm(100_000, generator=torch.Generator().manual_seed(0)).double()
    assert exposures_of_strangers(losses).mean().item() == pytest.approx(math.log2(math.e), abs=2e-3)
