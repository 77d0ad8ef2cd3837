import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfuse.knowledge import KnowledgeBatch
from strategies.variance_weighted import VarianceWeighted


def batch(soft_labels, mask=None):
    number, samples, _ = soft_labels.shape
    mask = torch.ones(number, samples, dtype=torch.bool) if mask is None else mask
    return KnowledgeBatch(tuple(range(number)), 1, {"soft_labels": {"soft_labels": soft_labels, "mask": mask}})


def random_soft_labels(*shape, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.softmax(2 * torch.randn(*shape, generator=random, dtype=torch.float64), dim=2)


def fuse(soft_labels, mask=None, diversity=0.0):
    return VarianceWeighted(diversity).fuse(batch(soft_labels, mask), None)


def consensus(soft_labels, mask=None, diversity=0.0):
    return fuse(soft_labels, mask, diversity).common["soft_labels"]["soft_labels"]


def test_soft_labels_travel_both_ways_and_diversity_is_off():
    assert VarianceWeighted.sends == VarianceWeighted.returns == {"soft_labels"}
    assert VarianceWeighted.needs == frozenset()
    assert (VarianceWeighted().space, VarianceWeighted().diversity) == ("probability", 0.0)


def test_consensus_in_numbers():
    # Around the mean of one half the variances are 1/4 and 1/16.
    soft_labels = torch.tensor([[[1.0, 0.0]], [[0.25, 0.75]]], dtype=torch.float64)
    fused = fuse(soft_labels)
    assert fused.common["soft_labels"]["soft_labels"][0].tolist() == pytest.approx([0.85, 0.15], abs=1e-14)
    assert fused.relevance[1].tolist() == pytest.approx([0.8, 0.2], abs=1e-14)
    assert VarianceWeighted().weigh(batch(soft_labels)).tolist() == [[0.25], [0.0625]]


def test_an_even_answer_counts_nothing_and_a_sample_to_which_all_are_even_carries_nothing():
    soft_labels = random_soft_labels(2, 2, 4)
    soft_labels[0] = 0.25
    soft_labels[1, 1] = 0.25
    fused = fuse(soft_labels).common["soft_labels"]
    torch.testing.assert_close(fused["soft_labels"][0], soft_labels[1, 0], rtol=0, atol=1e-14)
    assert fused["soft_labels"][1].tolist() == [0.25] * 4
    assert fused["mask"].tolist() == [True, False]


def test_answers_of_equal_variance_count_alike():
    answers = random_soft_labels(1, 6, 4)[0]
    soft_labels = torch.stack([answers, answers.roll(1, dims=1), answers.flip(1)])
    torch.testing.assert_close(consensus(soft_labels), soft_labels.mean(0), rtol=0, atol=1e-13)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), number=st.integers(1, 8), diversity=st.sampled_from([0.0, 0.7]))
def test_results_are_on_the_simplex_and_do_not_depend_on_the_order_or_on_what_was_not_answered(seed, number, diversity):
    soft_labels = random_soft_labels(number, 4, 5, seed=seed)
    random = torch.Generator().manual_seed(seed)
    mask = torch.rand(number, 4, generator=random) < 0.7
    fused = fuse(soft_labels * mask.unsqueeze(2), mask, diversity)
    labels = fused.common["soft_labels"]["soft_labels"]
    torch.testing.assert_close(labels.sum(1), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-13)
    assert (labels >= 0).all()
    assert torch.equal(fused.common["soft_labels"]["mask"], mask.any(0))

    order = torch.randperm(number, generator=random)
    garbage = 1e200 * torch.randn(soft_labels.shape, generator=random, dtype=torch.float64)
    other = fuse(torch.where(mask.unsqueeze(2), soft_labels, garbage)[order], mask[order], diversity)
    assert torch.equal(other.common["soft_labels"]["mask"], mask.any(0))
    torch.testing.assert_close(other.common["soft_labels"]["soft_labels"], labels, rtol=0, atol=1e-9)
    torch.testing.assert_close(other.relevance, fused.relevance[order][:, order], rtol=0, atol=1e-9)


@pytest.mark.parametrize("number", [1, 2, 7])
@pytest.mark.parametrize("diversity", [0.0, 0.7])
def test_clients_that_agree_change_nothing(number, diversity):
    soft_labels = random_soft_labels(1, 6, 5).expand(number, 6, 5)
    torch.testing.assert_close(consensus(soft_labels, None, diversity), soft_labels[0], rtol=0, atol=1e-14)


def test_single_precision_stays_single_precision():
    soft_labels = random_soft_labels(3, 6, 4)
    fused = consensus(soft_labels.float())
    assert fused.dtype == torch.float32
    torch.testing.assert_close(fused.double(), consensus(soft_labels), rtol=0, atol=1e-6)


# Diversity


def test_those_that_disagree_teach_beside_the_consensus_in_numbers():
    # Variances 1/4, 1/16 and 0.09; the consensus is for the first class, the last two are not.
    first = torch.tensor([1.0, 0.25, 0.2], dtype=torch.float64)
    answers = torch.stack([first, 1 - first], dim=1).unsqueeze(1)
    mean = (0.25 * 1 + 0.0625 * 0.25 + 0.09 * 0.2) / (0.25 + 0.0625 + 0.09)
    logit = (0.0625 * math.log(1 / 3) + 0.09 * math.log(1 / 4)) / (0.0625 + 0.09)
    others = 1 / (1 + math.exp(-logit))
    expected = (mean + 0.5 * others) / 1.5
    fused = fuse(answers, diversity=0.5)
    labels = fused.common["soft_labels"]["soft_labels"][0]
    assert labels.tolist() == pytest.approx([expected, 1 - expected], abs=1e-12)
    # Who was listened to, in the report, is told of the consensus.
    assert torch.equal(fused.relevance, fuse(answers).relevance)


def test_where_nobody_disagrees_diversity_changes_nothing():
    answers = torch.tensor([[[0.6, 0.3, 0.1]], [[0.5, 0.1, 0.4]]], dtype=torch.float64)
    assert torch.equal(consensus(answers, diversity=3.0), consensus(answers))


def test_one_target_stands_for_both_terms_of_the_loss():
    answers = random_soft_labels(4, 1, 3)
    plain, both = consensus(answers)[0], consensus(answers, diversity=0.4)[0]
    disagree = answers[answers[:, 0].argmax(1) != plain.argmax()]
    assert len(disagree) in (1, 2, 3)
    weights = disagree[:, 0].var(1, correction=0)
    others = torch.softmax((weights / weights.sum()) @ disagree[:, 0].log(), 0)
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)

    def loss(target):
        return -(target * torch.log_softmax(logits, 0)).sum()

    (separate,) = torch.autograd.grad(loss(plain) + 0.4 * loss(others), logits)
    (together,) = torch.autograd.grad(1.4 * loss(both), logits)
    torch.testing.assert_close(together, separate, rtol=0, atol=1e-12)


@pytest.mark.parametrize("diversity", [-0.1, math.nan, math.inf])
def test_a_diversity_out_of_range_is_refused(diversity):
    with pytest.raises(ValueError, match=f"diversity={diversity} must be finite and not negative"):
        VarianceWeighted(diversity)
