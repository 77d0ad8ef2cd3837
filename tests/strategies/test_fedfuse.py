import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfuse.composition import compose
from fedfuse.knowledge import KnowledgeBatch
from strategies.fedfuse import FedFuse

# Variances of 0.09, 0.0225 and 0.
SURE, HALF_AS_SURE, EVEN = [0.8, 0.2], [0.35, 0.65], [0.5, 0.5]


def batch(soft_labels, mask=None):
    number, samples, _ = soft_labels.shape
    mask = torch.ones(number, samples, dtype=torch.bool) if mask is None else mask
    tensors = {"soft_labels": {"soft_labels": soft_labels, "mask": mask}}
    return KnowledgeBatch(client_ids=tuple(range(number)), round=1, tensors=tensors)


def on_one_sample(*answers):
    return batch(torch.tensor(answers, dtype=torch.float64).unsqueeze(1))


def random_soft_labels(number, samples=6, classes=4, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.softmax(2 * torch.randn(number, samples, classes, generator=random, dtype=torch.float64), 2)


def flattened(soft_labels, factor):
    """As far from even as before, times the factor."""
    even = 1 / soft_labels.shape[2]
    return even + factor * (soft_labels - even)


def consensus(strategy, knowledge):
    fused = strategy.fuse(knowledge, None)
    return fused.common["soft_labels"]["soft_labels"], fused.common["soft_labels"]["mask"]


def test_soft_labels_are_sent_and_come_back_and_no_private_fact_is_needed():
    assert FedFuse.sends == FedFuse.returns == {"soft_labels"}
    assert FedFuse.needs == frozenset()


# -- in numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sharpness", "weight"), [(0.5, 1 / 2), (1.0, 1 / 4), (2.0, 1 / 16), (4.0, 1 / 256), (0.0, 1)])
def test_an_answer_counts_by_its_variance_against_the_largest_to_the_power_of_the_sharpness(sharpness, weight):
    knowledge, strategy = on_one_sample(SURE, HALF_AS_SURE), FedFuse(sharpness)
    assert strategy.weigh(knowledge).flatten().tolist() == pytest.approx([1, weight])
    fused, answered = consensus(strategy, knowledge)
    first = (0.8 + weight * 0.35) / (1 + weight)
    assert fused[0].tolist() == pytest.approx([first, 1 - first])
    assert answered.tolist() == [True]


def test_the_default_is_the_one_of_its_file_but_that_it_makes_clients_rehearse():
    configuration = compose(["strategy=fedfuse"])
    assert configuration.strategy.arguments == {"sharpness": FedFuse().sharpness, "rehearse": 0.3}
    assert FedFuse().rehearse == 0  # what learn.rehearse is where a file of one's own does not name it
    assert configuration.learn.rehearse == configuration.absorb.rehearse == 0.3


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 4.0])
def test_an_even_answer_counts_nothing_beside_another(sharpness):
    knowledge = on_one_sample(EVEN, HALF_AS_SURE)
    assert FedFuse(sharpness).weigh(knowledge).flatten().tolist() == [0, 1]
    assert consensus(FedFuse(sharpness), knowledge)[0][0].tolist() == pytest.approx(HALF_AS_SURE)


def test_without_sharpness_even_answers_count_like_the_others():
    fused, answered = consensus(FedFuse(0.0), on_one_sample(SURE, HALF_AS_SURE, EVEN))
    assert fused[0].tolist() == pytest.approx([0.55, 0.45])
    assert answered.tolist() == [True]


@pytest.mark.parametrize("sharpness", [0.0, 4.0])
@pytest.mark.parametrize("classes", [2, 3, 7, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sample_that_all_answer_evenly_is_not_learnt_from(sharpness, classes, dtype):
    soft_labels = random_soft_labels(3, classes=classes).to(dtype)
    soft_labels[:, 2] = 1 / classes
    fused, answered = consensus(FedFuse(sharpness), batch(soft_labels))
    assert answered.tolist() == [True, True, False, True, True, True]
    assert torch.isfinite(fused).all()


def test_a_high_sharpness_leaves_the_word_to_the_surest():
    soft_labels = random_soft_labels(5)
    fused, _ = consensus(FedFuse(1e6), batch(soft_labels))
    surest = soft_labels.var(2).argmax(0)
    torch.testing.assert_close(fused, soft_labels[surest, torch.arange(6)], rtol=0, atol=1e-12)


# -- who is heard ------------------------------------------------------------------------------------------------------


def test_of_two_clients_that_each_know_another_sample_each_is_heard_on_its_own():
    soft_labels = torch.tensor([[SURE, EVEN], [EVEN, HALF_AS_SURE]], dtype=torch.float64)
    fused, _ = consensus(FedFuse(), batch(soft_labels))
    torch.testing.assert_close(fused, torch.tensor([SURE, HALF_AS_SURE], dtype=torch.float64), rtol=0, atol=1e-15)


@pytest.mark.parametrize("factor", [0.5, 1e-3, 1e-6])
def test_how_flat_all_answers_to_a_sample_are_does_not_matter(factor):
    soft_labels = random_soft_labels(5)
    scaled = soft_labels.clone()
    scaled[:, 3] = flattened(soft_labels, factor)[:, 3]
    expected = FedFuse().weigh(batch(soft_labels))
    torch.testing.assert_close(FedFuse().weigh(batch(scaled)), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sharpness", [0.0, 4.0, 100.0])
def test_tiny_variances_do_not_leave_a_sample_to_nobody(dtype, sharpness):
    # Of 2^-40 in float64 (2^-20 in float32) from one half: to the power of 4 a variance would be below all numbers.
    distance = 2.0 ** (-20 if dtype == torch.float32 else -40)
    soft_labels = torch.tensor([[[0.5 + distance, 0.5 - distance]], [EVEN]], dtype=dtype)
    weights = FedFuse(sharpness).weigh(batch(soft_labels))
    assert weights.flatten().tolist() == [1, 0 if sharpness else 1]
    fused, answered = consensus(FedFuse(sharpness), batch(soft_labels))
    assert answered.tolist() == [True]
    assert fused[0, 0] > 0.5


def test_identical_clients_change_nothing_and_one_client_keeps_its_labels():
    soft_labels = random_soft_labels(5)
    same, _ = consensus(FedFuse(), batch(soft_labels[:1].expand(5, 6, 4)))
    torch.testing.assert_close(same, soft_labels[0], rtol=0, atol=1e-12)
    alone, answered = consensus(FedFuse(), batch(soft_labels[:1]))
    torch.testing.assert_close(alone, soft_labels[0], rtol=0, atol=1e-15)
    assert answered.all()
    twice, _ = consensus(FedFuse(), batch(torch.cat([soft_labels[:2], soft_labels[:2]])))
    torch.testing.assert_close(twice, consensus(FedFuse(), batch(soft_labels[:2]))[0], rtol=0, atol=1e-12)


# -- hostile clients ---------------------------------------------------------------------------------------------------


def test_a_hostile_client_that_is_always_even_changes_nothing():
    soft_labels = random_soft_labels(4)
    hostile = torch.cat([soft_labels, torch.full((1, 6, 4), 0.25, dtype=torch.float64)])
    expected, _ = consensus(FedFuse(), batch(soft_labels))
    torch.testing.assert_close(consensus(FedFuse(), batch(hostile))[0], expected, rtol=0, atol=1e-15)


def test_a_hostile_client_that_is_always_sure_of_one_class_is_heard_as_one_of_those_who_are_sure():
    honest = torch.zeros(4, 2, 4, dtype=torch.float64)
    honest[:3, 0, 2] = honest[:3, 1, 0] = 1  # three that know
    honest[3] = 0.25  # one that does not
    hostile = torch.tensor([0.0, 1, 0, 0], dtype=torch.float64).expand(1, 2, 4)
    knowledge = batch(torch.cat([honest, hostile]))
    assert FedFuse().weigh(knowledge).tolist() == [[1, 1]] * 3 + [[0, 0]] + [[1, 1]]
    fused, _ = consensus(FedFuse(), knowledge)
    assert fused.tolist() == [pytest.approx([0, 0.25, 0.75, 0]), pytest.approx([0.75, 0.25, 0, 0])]


# -- whatever they answer ----------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), number=st.integers(1, 8), sharpness=st.sampled_from([0.0, 0.5, 1.0, 4.0]))
def test_results_follow_the_clients_and_what_was_not_answered_counts_for_nothing(seed, number, sharpness):
    random = torch.Generator().manual_seed(seed)
    soft_labels, strategy = random_soft_labels(number, seed=seed), FedFuse(sharpness)
    mask = torch.rand(number, 6, generator=random) < 0.6
    mask[:, 0], mask[:, 1] = True, False
    absent = mask.unsqueeze(2)
    fused, known = consensus(strategy, batch(soft_labels * absent, mask))
    assert torch.equal(known, mask.any(0))
    assert (fused >= 0).all()
    torch.testing.assert_close(fused.sum(1), torch.ones(6, dtype=torch.float64), rtol=0, atol=1e-12)

    weights = strategy.weigh(batch(soft_labels * absent, mask))
    assert (weights[~mask] == 0).all()
    assert (weights.amax(0) == mask.any(0)).all()
    for sample in range(6):
        members = mask[:, sample]
        if members.any():
            variance = (soft_labels[members, sample] - 0.25).square().mean(1)
            expected = (variance / variance.max()) ** sharpness
            torch.testing.assert_close(weights[members, sample], expected, rtol=0, atol=1e-12)

    order = torch.randperm(number, generator=random)
    permuted = batch((soft_labels * absent)[order], mask[order])
    torch.testing.assert_close(consensus(strategy, permuted)[0], fused, rtol=0, atol=1e-12)

    garbage = batch(torch.where(absent, soft_labels, 1e6 * torch.rand(4, generator=random)), mask)
    torch.testing.assert_close(consensus(strategy, garbage)[0], fused, rtol=0, atol=0)


def test_what_comes_back_has_the_type_that_came_in():
    fused, _ = consensus(FedFuse(), batch(random_soft_labels(3).float()))
    assert fused.dtype == torch.float32


@pytest.mark.parametrize("sharpness", [-1, -0.1, math.nan, math.inf])
def test_a_sharpness_that_is_negative_or_no_number_is_refused(sharpness):
    with pytest.raises(ValueError, match=f"sharpness={sharpness} must be finite and not negative"):
        FedFuse(sharpness)
