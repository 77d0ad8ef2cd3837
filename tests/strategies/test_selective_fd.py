import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfuse.knowledge import KnowledgeBatch
from strategies.selective_fd import SelectiveFD


def batch(soft_labels, familiarity, mask=None):
    number, samples, _ = soft_labels.shape
    mask = torch.ones(number, samples, dtype=torch.bool) if mask is None else mask
    tensors = {
        "soft_labels": {"soft_labels": soft_labels, "mask": mask},
        "densities": {"densities": torch.zeros_like(familiarity), "familiarity": familiarity, "mask": mask},
    }
    return KnowledgeBatch(client_ids=tuple(range(number)), round=1, tensors=tensors)


def random_knowledge(number, samples=6, classes=4, seed=0):
    random = torch.Generator().manual_seed(seed)
    soft_labels = torch.softmax(2 * torch.randn(number, samples, classes, generator=random, dtype=torch.float64), 2)
    return soft_labels, torch.rand(number, samples, generator=random, dtype=torch.float64)


def consensus(strategy, knowledge):
    fused = strategy.fuse(knowledge, None)
    return fused.common["soft_labels"]["soft_labels"], fused.common["soft_labels"]["mask"]


def test_soft_labels_and_densities_are_sent_and_soft_labels_come_back():
    assert SelectiveFD.sends == {"soft_labels", "densities"}
    assert SelectiveFD.returns == {"soft_labels"}
    assert SelectiveFD.needs == frozenset()


def test_answers_to_unfamiliar_samples_are_left_out():
    soft_labels, _ = random_knowledge(3, samples=3)
    familiarity = torch.tensor([[0.5, 0.1, 0.0], [0.2, 0.2, 0.19], [0.0, 0.9, 0.1]], dtype=torch.float64)
    fused, known = consensus(SelectiveFD(quantile=0.2), batch(soft_labels, familiarity))
    torch.testing.assert_close(fused[0], soft_labels[:2, 0].mean(0))
    torch.testing.assert_close(fused[1], soft_labels[1:, 1].mean(0))
    # Familiar to nobody.
    assert known.tolist() == [True, True, False]


def test_samples_on_which_the_mean_is_ambiguous_are_left_out():
    # The distance of (p, 1 - p) from a decided answer is twice the smaller of the two.
    soft_labels = torch.tensor([[[0.75, 0.25], [0.875, 0.125], [0.25, 0.75]]], dtype=torch.float64)
    familiar = torch.ones(1, 3, dtype=torch.float64)
    for ambiguity, known in ((0.5, [False, True, False]), (0.51, [True] * 3), (0.25, [False] * 3)):
        fused, mask = consensus(SelectiveFD(ambiguity=ambiguity), batch(soft_labels, familiar))
        assert mask.tolist() == known
        assert torch.equal(fused, soft_labels[0])


def test_by_default_nothing_that_is_familiar_is_ambiguous():
    even = torch.full((2, 3, 100), 0.01, dtype=torch.float64)
    fused, known = consensus(SelectiveFD(), batch(even, torch.full((2, 3), 0.125, dtype=torch.float64)))
    assert known.all()
    torch.testing.assert_close(fused, even[0])


def test_without_a_quantile_it_is_the_mean():
    soft_labels, familiarity = random_knowledge(5)
    fused, known = consensus(SelectiveFD(quantile=0), batch(soft_labels, 0 * familiarity))
    torch.testing.assert_close(fused, soft_labels.mean(0), rtol=0, atol=1e-12)
    assert known.all()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), number=st.integers(1, 8))
def test_results_follow_the_clients_and_what_was_not_answered_counts_for_nothing(seed, number):
    random = torch.Generator().manual_seed(seed)
    strategy = SelectiveFD(quantile=0.3, ambiguity=1.4)
    soft_labels, familiarity = random_knowledge(number, samples=20, seed=seed)
    mask = torch.rand(number, 20, generator=random) < 0.7
    absent = mask.unsqueeze(2)
    fused, known = consensus(strategy, batch(soft_labels * absent, familiarity * mask, mask))
    torch.testing.assert_close(fused.sum(1), torch.ones(20, dtype=torch.float64), rtol=0, atol=1e-12)
    for sample in range(20):
        kept = soft_labels[mask[:, sample] & (familiarity[:, sample] >= 0.3), sample]
        assert bool(known[sample]) == (len(kept) > 0 and 2 * (1 - kept.mean(0).max()) < 1.4)
        if known[sample]:
            torch.testing.assert_close(fused[sample], kept.mean(0), rtol=0, atol=1e-12)

    order = torch.randperm(number, generator=random)
    permuted = batch((soft_labels * absent)[order], (familiarity * mask)[order], mask[order])
    torch.testing.assert_close(consensus(strategy, permuted)[0], fused, rtol=0, atol=1e-12)

    garbage = batch(torch.where(absent, soft_labels, 1e6), torch.where(mask, familiarity, 1), mask)
    for result, expected in zip(consensus(strategy, garbage), (fused, known), strict=True):
        assert torch.equal(result, expected)


def test_what_comes_back_has_the_type_that_came_in():
    soft_labels, familiarity = random_knowledge(3)
    assert consensus(SelectiveFD(), batch(soft_labels.float(), familiarity.float()))[0].dtype == torch.float32


@pytest.mark.parametrize("quantile", [-0.1, 1.1, math.nan])
def test_a_quantile_that_is_no_share_is_refused(quantile):
    with pytest.raises(ValueError, match=f"quantile={quantile} must be from 0 to 1"):
        SelectiveFD(quantile=quantile)


@pytest.mark.parametrize("ambiguity", [0, 2.1, math.nan])
def test_an_ambiguity_that_no_distance_has_is_refused(ambiguity):
    with pytest.raises(ValueError, match=f"ambiguity={ambiguity} must be above 0 and at most 2"):
        SelectiveFD(ambiguity=ambiguity)
