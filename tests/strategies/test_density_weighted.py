import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfuse.knowledge import KnowledgeBatch
from strategies.density_weighted import DensityWeighted


def batch(soft_labels, densities, mask=None):
    number, samples, _ = soft_labels.shape
    mask = torch.ones(number, samples, dtype=torch.bool) if mask is None else mask
    tensors = {
        "soft_labels": {"soft_labels": soft_labels, "mask": mask},
        "densities": {"densities": densities, "familiarity": torch.zeros_like(densities), "mask": mask},
    }
    return KnowledgeBatch(client_ids=tuple(range(number)), round=1, tensors=tensors)


def random_knowledge(number, samples=6, classes=4, seed=0):
    random = torch.Generator().manual_seed(seed)
    soft_labels = torch.softmax(torch.randn(number, samples, classes, generator=random, dtype=torch.float64), 2)
    return soft_labels, 5 * torch.randn(number, samples, generator=random, dtype=torch.float64)


def consensus(strategy, knowledge):
    fused = strategy.fuse(knowledge, None)
    return fused.common["soft_labels"]["soft_labels"], fused.common["soft_labels"]["mask"]


def test_soft_labels_and_densities_are_sent_and_soft_labels_come_back():
    assert DensityWeighted.sends == {"soft_labels", "densities"}
    assert DensityWeighted.returns == {"soft_labels"}
    assert DensityWeighted.needs == frozenset()


def test_consensus_in_numbers():
    soft_labels = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=torch.float64)
    densities = torch.tensor([[math.log(3) - 70], [-70.0]], dtype=torch.float64)
    once, _ = consensus(DensityWeighted(), batch(soft_labels, densities))
    assert once[0].tolist() == pytest.approx([0.75, 0.25])
    sharper, _ = consensus(DensityWeighted(temperature=0.5), batch(soft_labels, densities))
    assert sharper[0].tolist() == pytest.approx([0.9, 0.1])


def test_equal_densities_and_a_high_temperature_give_the_mean():
    soft_labels, densities = random_knowledge(5)
    mean = soft_labels.mean(0)
    even, _ = consensus(DensityWeighted(), batch(soft_labels, torch.full_like(densities, -1e6)))
    torch.testing.assert_close(even, mean, rtol=0, atol=1e-12)
    hot, _ = consensus(DensityWeighted(temperature=1e15), batch(soft_labels, densities))
    torch.testing.assert_close(hot, mean, rtol=0, atol=1e-12)


def test_whose_data_alone_hold_the_like_of_a_sample_decides_on_it():
    soft_labels, densities = random_knowledge(5)
    densities[2, 3] = densities.max() + 40
    fused, _ = consensus(DensityWeighted(), batch(soft_labels, densities))
    torch.testing.assert_close(fused[3], soft_labels[2, 3], rtol=0, atol=1e-12)


def test_only_differences_within_a_sample_count():
    soft_labels, densities = random_knowledge(5)
    shifted = densities + torch.linspace(-500, 500, 6, dtype=torch.float64)
    expected, _ = consensus(DensityWeighted(), batch(soft_labels, densities))
    torch.testing.assert_close(consensus(DensityWeighted(), batch(soft_labels, shifted))[0], expected)


def test_clients_that_agree_change_nothing_and_one_client_keeps_its_labels():
    soft_labels, densities = random_knowledge(5)
    same = soft_labels[:1].expand(5, 6, 4)
    torch.testing.assert_close(
        consensus(DensityWeighted(), batch(same, densities))[0], soft_labels[0], rtol=0, atol=1e-12
    )
    assert torch.equal(consensus(DensityWeighted(), batch(soft_labels[:1], densities[:1]))[0], soft_labels[0])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), number=st.integers(1, 8))
def test_results_follow_the_clients_and_what_was_not_answered_counts_for_nothing(seed, number):
    random = torch.Generator().manual_seed(seed)
    soft_labels, densities = random_knowledge(number, seed=seed)
    mask = torch.rand(number, 6, generator=random) < 0.6
    mask[:, 0], mask[:, 1] = True, False
    absent = mask.unsqueeze(2)
    fused, known = consensus(DensityWeighted(), batch(soft_labels * absent, densities * mask, mask))
    assert torch.equal(known, mask.any(0))
    assert (fused >= 0).all()
    torch.testing.assert_close(fused.sum(1), torch.ones(6, dtype=torch.float64), rtol=0, atol=1e-12)

    weights = DensityWeighted().weigh(batch(soft_labels * absent, densities * mask, mask))
    torch.testing.assert_close(weights.sum(0), mask.any(0).double(), rtol=0, atol=1e-12)
    for sample in range(6):
        members = mask[:, sample]
        expected = torch.softmax(densities[members, sample], 0)
        torch.testing.assert_close(weights[members, sample], expected, rtol=0, atol=1e-12)

    order = torch.randperm(number, generator=random)
    permuted = batch((soft_labels * absent)[order], (densities * mask)[order], mask[order])
    torch.testing.assert_close(consensus(DensityWeighted(), permuted)[0], fused, rtol=0, atol=1e-12)

    garbage = batch(torch.where(absent, soft_labels, 1e6), torch.where(mask, densities, 1e12), mask)
    torch.testing.assert_close(consensus(DensityWeighted(), garbage)[0], fused, rtol=0, atol=0)


def test_what_comes_back_has_the_type_that_came_in():
    soft_labels, densities = random_knowledge(3)
    fused, _ = consensus(DensityWeighted(), batch(soft_labels.float(), densities.float()))
    assert fused.dtype == torch.float32


@pytest.mark.parametrize("temperature", [0, -1, math.nan, math.inf])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match=f"temperature={temperature} must be finite and positive"):
        DensityWeighted(temperature)
