import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfuse.knowledge import KnowledgeBatch
from strategies.confidence_weighted import ConfidenceWeighted


def batch(soft_labels, mask=None):
    number, samples, _ = soft_labels.shape
    mask = torch.ones(number, samples, dtype=torch.bool) if mask is None else mask
    return KnowledgeBatch(tuple(range(number)), 1, {"soft_labels": {"soft_labels": soft_labels, "mask": mask}})


def random_soft_labels(*shape, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.softmax(2 * torch.randn(*shape, generator=random, dtype=torch.float64), dim=2)


def fuse(soft_labels, *arguments, mask=None):
    return ConfidenceWeighted(*arguments).fuse(batch(soft_labels, mask), None)


def consensus(soft_labels, *arguments, mask=None):
    return fuse(soft_labels, *arguments, mask=mask).common["soft_labels"]["soft_labels"]


def test_soft_labels_travel_both_ways_and_the_strength_is_one():
    assert ConfidenceWeighted.sends == ConfidenceWeighted.returns == {"soft_labels"}
    assert ConfidenceWeighted.needs == frozenset()
    assert (ConfidenceWeighted().strength, ConfidenceWeighted().space) == (1.0, "probability")


@pytest.mark.parametrize("strength", [0.5, 1.0, 3.0])
def test_consensus_in_numbers(strength):
    soft_labels = torch.tensor([[[0.0, 1.0, 0.0]], [[0.5, 0.2, 0.3]]], dtype=torch.float64)
    other = 0.5**strength
    expected = [other * 0.5 / (1 + other), (1 + other * 0.2) / (1 + other), other * 0.3 / (1 + other)]
    fused = fuse(soft_labels, strength)
    assert fused.common["soft_labels"]["soft_labels"][0].tolist() == pytest.approx(expected, abs=1e-14)
    assert fused.relevance[1].tolist() == pytest.approx([1 / (1 + other), other / (1 + other)], abs=1e-14)


def test_with_a_strength_of_zero_everybody_gets_the_plain_mean():
    soft_labels = random_soft_labels(5, 6, 4)
    soft_labels[2] = 0.25
    fused = fuse(soft_labels, 0.0)
    assert fused.personal == {}
    mean = fused.common["soft_labels"]["soft_labels"]
    torch.testing.assert_close(mean, soft_labels.mean(0), rtol=0, atol=1e-14)
    torch.testing.assert_close(fused.relevance, torch.full((5, 5), 0.2, dtype=torch.float64), rtol=0, atol=1e-14)


def test_a_very_large_strength_leaves_the_surest_answer_of_each_sample():
    soft_labels = random_soft_labels(5, 6, 4) / 10 + 0.9 / 4
    surest = soft_labels.amax(2).argmax(0)
    fused = fuse(soft_labels, 1e5).common["soft_labels"]
    assert fused["mask"].all()
    torch.testing.assert_close(fused["soft_labels"], soft_labels[surest, torch.arange(6)], rtol=0, atol=1e-9)


def test_an_even_answer_counts_as_one_of_its_classes():
    soft_labels = torch.tensor([[[1.0, 0.0, 0.0, 0.0]], [[0.25] * 4]], dtype=torch.float64)
    assert consensus(soft_labels)[0].tolist() == pytest.approx([0.85, 0.05, 0.05, 0.05], abs=1e-14)


def test_samples_to_which_all_are_even_still_carry_their_mean():
    fused = fuse(torch.full((3, 2, 4), 0.25, dtype=torch.float64)).common["soft_labels"]
    assert fused["mask"].all()
    assert torch.equal(fused["soft_labels"], torch.full((2, 4), 0.25, dtype=torch.float64))


def test_answers_of_equal_confidence_count_alike():
    answers = random_soft_labels(1, 6, 4)[0]
    soft_labels = torch.stack([answers, answers.roll(1, dims=1), answers.flip(1)])
    torch.testing.assert_close(consensus(soft_labels, 3.0), soft_labels.mean(0), rtol=0, atol=1e-13)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), number=st.integers(1, 8), strength=st.floats(0, 100))
def test_results_are_on_the_simplex_and_do_not_depend_on_the_order_or_on_what_was_not_answered(seed, number, strength):
    soft_labels = random_soft_labels(number, 4, 5, seed=seed)
    random = torch.Generator().manual_seed(seed)
    mask = torch.rand(number, 4, generator=random) < 0.7
    fused = fuse(soft_labels * mask.unsqueeze(2), strength, mask=mask)
    labels = fused.common["soft_labels"]["soft_labels"]
    torch.testing.assert_close(labels.sum(1), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-13)
    assert (labels >= 0).all()
    assert torch.equal(fused.common["soft_labels"]["mask"], mask.any(0))

    order = torch.randperm(number, generator=random)
    garbage = 1e200 * torch.randn(soft_labels.shape, generator=random, dtype=torch.float64)
    other = fuse(torch.where(mask.unsqueeze(2), soft_labels, garbage)[order], strength, mask=mask[order])
    assert torch.equal(other.common["soft_labels"]["mask"], mask.any(0))
    torch.testing.assert_close(other.common["soft_labels"]["soft_labels"], labels, rtol=0, atol=1e-9)
    torch.testing.assert_close(other.relevance, fused.relevance[order][:, order], rtol=0, atol=1e-9)


@pytest.mark.parametrize("number", [1, 2, 7])
def test_clients_that_agree_change_nothing(number):
    soft_labels = random_soft_labels(1, 6, 5).expand(number, 6, 5)
    torch.testing.assert_close(consensus(soft_labels, 2.0), soft_labels[0], rtol=0, atol=1e-14)


def test_single_precision_stays_single_precision():
    soft_labels = random_soft_labels(3, 6, 4)
    fused = consensus(soft_labels.float(), 2.0)
    assert fused.dtype == torch.float32
    torch.testing.assert_close(fused.double(), consensus(soft_labels, 2.0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("strength", [-1.0, math.nan, math.inf])
def test_a_strength_out_of_range_is_refused(strength):
    with pytest.raises(ValueError, match=f"strength={strength} must be finite and not negative"):
        ConfidenceWeighted(strength)
