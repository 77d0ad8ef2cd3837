import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfuse.knowledge import KnowledgeBatch
from strategies.ds_fl import DSFL


def batch(soft_labels, mask=None):
    number, samples, _ = soft_labels.shape
    mask = torch.ones(number, samples, dtype=torch.bool) if mask is None else mask
    return KnowledgeBatch(tuple(range(number)), 1, {"soft_labels": {"soft_labels": soft_labels, "mask": mask}})


def random_soft_labels(*shape, seed=0, size=3.0):
    random = torch.Generator().manual_seed(seed)
    return torch.softmax(size * torch.randn(*shape, generator=random, dtype=torch.float64), dim=2)


def consensus(soft_labels, *arguments, mask=None):
    return DSFL(*arguments).fuse(batch(soft_labels, mask), None).common["soft_labels"]["soft_labels"]


def entropy(soft_labels):
    return torch.special.entr(soft_labels).sum(-1)


def test_soft_labels_travel_both_ways_and_the_temperature_is_that_of_the_method():
    assert DSFL.sends == DSFL.returns == {"soft_labels"}
    assert DSFL.needs == frozenset()
    assert (DSFL().temperature, DSFL().space) == (0.1, "probability")


def test_consensus_in_numbers():
    # The mean is (0.6, 0.4), so the logits are 2 apart at a temperature of 0.1, and 0.2 apart at 1.
    soft_labels = torch.tensor([[[0.8, 0.2]], [[0.4, 0.6]]], dtype=torch.float64)
    sharp = 1 / (1 + math.exp(-2))
    assert consensus(soft_labels)[0].tolist() == pytest.approx([sharp, 1 - sharp], abs=1e-14)
    flat = 1 / (1 + math.exp(-0.2))
    assert consensus(soft_labels, 1.0)[0].tolist() == pytest.approx([flat, 1 - flat], abs=1e-14)


def test_the_probabilities_are_averaged_and_not_the_logits():
    # The mean of the logits would prefer the first class: the mean of the probabilities prefers the second.
    soft_labels = torch.tensor([[[0.999, 0.001]], [[0.3, 0.7]], [[0.1, 0.9]]], dtype=torch.float64)
    assert soft_labels.log().mean(0).argmax().item() == 0
    assert consensus(soft_labels).argmax().item() == 1


def test_one_client_gets_its_own_labels_sharpened():
    soft_labels = random_soft_labels(1, 6, 5)
    expected = torch.softmax(10 * soft_labels[0], dim=1)
    torch.testing.assert_close(consensus(soft_labels), expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(consensus(soft_labels.expand(7, 6, 5)), expected, rtol=0, atol=1e-14)


def test_an_even_mean_stays_even():
    answers = random_soft_labels(1, 6, 4)[0]
    soft_labels = torch.stack([answers.roll(shift, dims=1) for shift in range(4)])
    torch.testing.assert_close(consensus(soft_labels), torch.full((6, 4), 0.25).double(), rtol=0, atol=1e-14)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), number=st.integers(1, 8), temperature=st.floats(0.1, 10))
def test_the_order_of_the_classes_stays_and_that_of_the_clients_does_not_matter(seed, number, temperature):
    soft_labels = random_soft_labels(number, 4, 5, seed=seed)
    fused = consensus(soft_labels, temperature)
    torch.testing.assert_close(fused.sum(1), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-14)
    assert (fused > 0).all()
    assert torch.equal(fused.argsort(1), soft_labels.mean(0).argsort(1))
    order = torch.randperm(number, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(consensus(soft_labels[order], temperature), fused, rtol=0, atol=1e-12)


def test_a_lower_temperature_is_more_decisive():
    soft_labels = random_soft_labels(5, 6, 4)
    entropies = [entropy(consensus(soft_labels, temperature)) for temperature in (0.01, 0.1, 1.0, 10.0)]
    assert all((lower < higher).all() for lower, higher in pairwise(entropies))


@pytest.mark.parametrize(("classes", "sharpens"), [(2, True), (5, True), (20, False), (100, False)])
def test_a_nearly_even_mean_is_sharpened_only_with_fewer_classes_than_one_over_the_temperature(classes, sharpens):
    soft_labels = random_soft_labels(1, 6, classes, size=0.01)
    assert ((entropy(consensus(soft_labels)) < entropy(soft_labels[0])) == sharpens).all()


@pytest.mark.parametrize("temperature", [1e-30, 1e-300])
def test_a_tiny_temperature_gives_the_largest_class(temperature):
    soft_labels = random_soft_labels(3, 6, 4).float()
    expected = torch.nn.functional.one_hot(soft_labels.mean(0).argmax(1), 4).float()
    assert torch.equal(consensus(soft_labels, temperature), expected)


def test_only_those_who_answered_count_and_rows_without_an_answer_carry_nothing():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    soft_labels = random_soft_labels(2, 3, 4)
    garbage = torch.where(mask.unsqueeze(2), soft_labels, torch.tensor(-7e5, dtype=torch.float64))
    for answers in (soft_labels * mask.unsqueeze(2), garbage):
        fused = DSFL().fuse(batch(answers, mask), None)
        tensors = fused.common["soft_labels"]
        assert tensors["mask"].tolist() == [True, True, False]
        expected = torch.stack([soft_labels[:, 0].mean(0), soft_labels[0, 1], torch.full((4,), 0.25).double()])
        expected = torch.softmax(10 * expected, dim=1)
        torch.testing.assert_close(tensors["soft_labels"], expected, rtol=0, atol=1e-14)
        # Who answered twice as often was listened to twice as much.
        torch.testing.assert_close(fused.relevance, torch.tensor([[2 / 3, 1 / 3]] * 2, dtype=torch.float64))


def test_single_precision_stays_single_precision():
    soft_labels = random_soft_labels(3, 6, 4)
    fused = consensus(soft_labels.float())
    assert fused.dtype == torch.float32
    torch.testing.assert_close(fused.double(), consensus(soft_labels), rtol=0, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_out_of_range_is_refused(temperature):
    with pytest.raises(ValueError, match=f"temperature={temperature} must be finite and positive"):
        DSFL(temperature)
