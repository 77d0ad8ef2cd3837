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


def fuse(soft_labels, mask=None):
    return VarianceWeighted().fuse(batch(soft_labels, mask), None)


def consensus(soft_labels, mask=None):
    return fuse(soft_labels, mask).common["soft_labels"]["soft_labels"]


def test_soft_labels_travel_both_ways_and_nothing_is_to_choose():
    assert VarianceWeighted.sends == VarianceWeighted.returns == {"soft_labels"}
    assert VarianceWeighted.needs == frozenset()
    assert VarianceWeighted().space == "probability"


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
@given(seed=st.integers(0, 1000), number=st.integers(1, 8))
def test_results_are_on_the_simplex_and_do_not_depend_on_the_order_or_on_what_was_not_answered(seed, number):
    soft_labels = random_soft_labels(number, 4, 5, seed=seed)
    random = torch.Generator().manual_seed(seed)
    mask = torch.rand(number, 4, generator=random) < 0.7
    fused = fuse(soft_labels * mask.unsqueeze(2), mask=mask)
    labels = fused.common["soft_labels"]["soft_labels"]
    torch.testing.assert_close(labels.sum(1), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-13)
    assert (labels >= 0).all()
    assert torch.equal(fused.common["soft_labels"]["mask"], mask.any(0))

    order = torch.randperm(number, generator=random)
    garbage = 1e200 * torch.randn(soft_labels.shape, generator=random, dtype=torch.float64)
    other = fuse(torch.where(mask.unsqueeze(2), soft_labels, garbage)[order], mask=mask[order])
    assert torch.equal(other.common["soft_labels"]["mask"], mask.any(0))
    torch.testing.assert_close(other.common["soft_labels"]["soft_labels"], labels, rtol=0, atol=1e-9)
    torch.testing.assert_close(other.relevance, fused.relevance[order][:, order], rtol=0, atol=1e-9)


@pytest.mark.parametrize("number", [1, 2, 7])
def test_clients_that_agree_change_nothing(number):
    soft_labels = random_soft_labels(1, 6, 5).expand(number, 6, 5)
    torch.testing.assert_close(consensus(soft_labels), soft_labels[0], rtol=0, atol=1e-14)


def test_single_precision_stays_single_precision():
    soft_labels = random_soft_labels(3, 6, 4)
    fused = consensus(soft_labels.float())
    assert fused.dtype == torch.float32
    torch.testing.assert_close(fused.double(), consensus(soft_labels), rtol=0, atol=1e-6)
