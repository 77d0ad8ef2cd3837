import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfuse.knowledge import KnowledgeBatch
from strategies.knfu import KnFu

DIVERGENCES = ("kl", "js", "l2")


def batch(soft_labels, mask=None, client_ids=None):
    number, samples, _ = soft_labels.shape
    mask = torch.ones(number, samples, dtype=torch.bool) if mask is None else mask
    return KnowledgeBatch(
        client_ids=tuple(range(number)) if client_ids is None else client_ids,
        round=1,
        tensors={"soft_labels": {"soft_labels": soft_labels, "mask": mask}},
    )


def random_soft_labels(*shape, seed=0, size=2.0):
    random = torch.Generator().manual_seed(seed)
    return torch.softmax(size * torch.randn(*shape, generator=random, dtype=torch.float64), dim=2)


def fused_labels(fused):
    """The fused soft labels of all clients, stacked in the order of the batch."""
    return torch.stack([own["soft_labels"]["soft_labels"] for own in fused.personal.values()])


def test_soft_labels_travel_both_ways_and_beta_is_that_of_the_paper():
    assert KnFu.sends == KnFu.returns == {"soft_labels"}
    assert KnFu.needs == frozenset()
    assert (KnFu().beta, KnFu().divergence, KnFu().space) == (10.0, "js", "probability")
    assert KnFu().prior_correction is False


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_relevance_in_numbers(divergence):
    # The mean answers are (3/4, 1/4) and (1/4, 3/4); smoothing takes one part in a thousand of the difference.
    soft_labels = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]], dtype=torch.float64)
    p, q = 0.74975, 0.25025
    distance = {
        "kl": (p - q) * math.log(p / q),
        "js": p * math.log(2 * p) + q * math.log(2 * q),
        "l2": 2 * (p - q) ** 2,
    }[divergence]
    own = 1 / (1 + math.exp(-3 * distance))
    relevance = KnFu(3.0, divergence).relate(batch(soft_labels))
    assert relevance[0].tolist() == pytest.approx([own, 1 - own])
    assert relevance[1].tolist() == pytest.approx([1 - own, own])


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_with_beta_of_zero_everybody_gets_the_plain_mean(divergence):
    soft_labels = random_soft_labels(5, 6, 4)
    fused = KnFu(0.0, divergence).fuse(batch(soft_labels), None)
    torch.testing.assert_close(fused_labels(fused), soft_labels.mean(0).expand(5, 6, 4), rtol=0, atol=1e-14)
    assert torch.equal(fused.relevance, torch.full((5, 5), 0.2, dtype=torch.float64))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_with_a_very_large_beta_everybody_gets_the_own_labels(divergence):
    soft_labels = random_soft_labels(5, 6, 4)
    fused = KnFu(1e9, divergence).fuse(batch(soft_labels), None)
    torch.testing.assert_close(fused_labels(fused), soft_labels, rtol=0, atol=1e-12)
    torch.testing.assert_close(fused.relevance, torch.eye(5, dtype=torch.float64))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_larger_beta_listens_more_to_oneself(divergence):
    knowledge = batch(random_soft_labels(5, 6, 4))
    own = [KnFu(beta, divergence).relate(knowledge).diagonal() for beta in (0.0, 1.0, 10.0, 100.0)]
    assert all((more > less).all() for less, more in pairwise(own))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_clients_with_the_same_mean_answer_listen_to_each_other_alike(divergence):
    # The same answers in another order have the same mean.
    answers = random_soft_labels(1, 6, 4)[0]
    soft_labels = torch.stack([answers.roll(number, dims=0) for number in range(4)])
    relevance = KnFu(10.0, divergence).relate(batch(soft_labels))
    torch.testing.assert_close(relevance, torch.full((4, 4), 0.25, dtype=torch.float64), rtol=0, atol=1e-6)


def test_nearer_neighbours_are_heard_more():
    means = torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7]], dtype=torch.float64).unsqueeze(1)
    for divergence in DIVERGENCES:
        relevance = KnFu(2.0, divergence).relate(batch(means))
        assert relevance[0, 0] > relevance[0, 1] > relevance[0, 2]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    number=st.integers(1, 8),
    beta=st.floats(0, 1000),
    divergence=st.sampled_from(DIVERGENCES),
    prior_correction=st.booleans(),
)
def test_relevance_sums_to_one_and_results_follow_the_clients(seed, number, beta, divergence, prior_correction):
    soft_labels = random_soft_labels(number, 3, 4, seed=seed)
    strategy = KnFu(beta, divergence, prior_correction)
    fused = strategy.fuse(batch(soft_labels), None)
    assert (fused.relevance >= 0).all()
    torch.testing.assert_close(fused.relevance.sum(1), torch.ones(number, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (fused.relevance.diagonal() >= fused.relevance.amax(1) - 1e-12).all()

    order = torch.randperm(number, generator=torch.Generator().manual_seed(seed))
    permuted = strategy.fuse(batch(soft_labels[order]), None)
    torch.testing.assert_close(fused_labels(permuted), fused_labels(fused)[order], rtol=0, atol=1e-9)
    torch.testing.assert_close(permuted.relevance, fused.relevance[order][:, order], rtol=0, atol=1e-9)


def test_every_client_gets_its_own_mix_under_its_id():
    soft_labels = random_soft_labels(3, 4, 5)
    fused = KnFu().fuse(batch(soft_labels, client_ids=(2, 5, 11)), None)
    assert fused.common is None
    assert list(fused.personal) == [2, 5, 11]
    expected = torch.einsum("kn,nmc->kmc", fused.relevance, soft_labels)
    torch.testing.assert_close(fused_labels(fused), expected, rtol=0, atol=1e-14)
    assert all(own["soft_labels"]["mask"].all() for own in fused.personal.values())


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_mean_answer_is_over_the_rows_that_were_answered(divergence):
    soft_labels = random_soft_labels(3, 4, 5)
    mask = torch.tensor([True, False, True, False]).expand(3, 4)
    subset = KnFu(5.0, divergence).relate(batch(soft_labels * mask.unsqueeze(2), mask))
    torch.testing.assert_close(subset, KnFu(5.0, divergence).relate(batch(soft_labels[:, [0, 2]])), rtol=0, atol=1e-14)


@pytest.mark.parametrize("prior_correction", [False, True])
def test_a_client_without_an_answer_breaks_nothing(prior_correction):
    mask = torch.tensor([[True, True], [False, False]])
    strategy = KnFu(prior_correction=prior_correction)
    fused = strategy.fuse(batch(random_soft_labels(2, 2, 3) * mask.view(2, 2, 1), mask), None)
    assert torch.isfinite(fused_labels(fused)).all()


@pytest.mark.parametrize("prior_correction", [False, True])
def test_what_was_not_answered_counts_for_nothing(prior_correction):
    mask = torch.tensor([[True, True, False], [True, False, True]])
    soft_labels = random_soft_labels(2, 3, 4)
    strategy = KnFu(prior_correction=prior_correction)
    zero = strategy.fuse(batch(torch.where(mask.unsqueeze(2), soft_labels, 0.0), mask), None)
    garbage = strategy.fuse(batch(torch.where(mask.unsqueeze(2), soft_labels, 1e6), mask), None)
    assert torch.equal(garbage.relevance, zero.relevance)
    assert torch.equal(fused_labels(garbage), fused_labels(zero))


def test_prior_correction_in_numbers():
    # The EPDs (0.8, 0.2) and (0.4, 0.6) have the mean (0.6, 0.4): divided by it they are (4/3, 1/2) and (2/3, 3/2).
    soft_labels = torch.tensor([[[0.8, 0.2]], [[0.4, 0.6]]], dtype=torch.float64)
    distance = 2 * (0.999 * (8 / 11 - 4 / 13)) ** 2
    own = 1 / (1 + math.exp(-3 * distance))
    relevance = KnFu(3.0, "l2", prior_correction=True).relate(batch(soft_labels))
    assert relevance.flatten().tolist() == pytest.approx([own, 1 - own, 1 - own, own])


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_prior_correction_takes_out_what_all_answer_alike(divergence):
    # Both pairs stand to each other as 3 to 1 in one class and 1 to 3 in another, whatever the third class holds.
    rare = torch.tensor([[0.03, 0.01, 0.96], [0.01, 0.03, 0.96]], dtype=torch.float64).unsqueeze(1)
    common = torch.tensor([[0.3, 0.1, 0.6], [0.1, 0.3, 0.6]], dtype=torch.float64).unsqueeze(1)
    corrected = KnFu(2.0, divergence, prior_correction=True)
    torch.testing.assert_close(corrected.relate(batch(rare)), corrected.relate(batch(common)), rtol=0, atol=1e-12)
    plain = KnFu(2.0, divergence)
    assert plain.relate(batch(rare))[0, 0] < plain.relate(batch(common))[0, 0] - 0.01


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_with_prior_correction_clients_that_agree_listen_to_each_other_alike(divergence):
    soft_labels = random_soft_labels(1, 6, 4).expand(5, 6, 4).clone()
    soft_labels[:, :, 2] = 0  # a class that nobody answers with
    soft_labels /= soft_labels.sum(2, keepdim=True)
    relevance = KnFu(10.0, divergence, prior_correction=True).relate(batch(soft_labels))
    torch.testing.assert_close(relevance, torch.full((5, 5), 0.2, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("divergence", "alpha", "self_weight", "neighbours"),
    [
        ("kl", 0.1, 0.965, 1.13),
        ("kl", 1.0, 0.879, 1.67),
        ("kl", 10.0, 0.184, 9.4),
        ("js", 0.1, 0.707, 2.6),
        ("js", 1.0, 0.293, 8.0),
        ("js", 10.0, 0.118, 10.0),
        ("l2", 0.1, 0.793, 1.9),
        ("l2", 1.0, 0.275, 8.1),
        ("l2", 10.0, 0.114, 10.0),
    ],
)
def test_how_many_neighbours_label_skew_leaves(divergence, alpha, self_weight, neighbours):
    """Ten clients that answer with their true label shares, drawn from a Dirichlet distribution, 0.01 added to each.

    The expected weight of oneself and number of neighbours (the exponential of the entropy of the weights) come from
    a separate simulation of the same definition.
    """
    random = np.random.default_rng(0)
    strategy = KnFu(10.0, divergence)
    relevances = []
    for _ in range(60):
        shares = torch.from_numpy(random.dirichlet([alpha] * 10, size=10))
        relevances.append(strategy.relate(batch(((shares + 0.01) / 1.1).unsqueeze(1))))
    relevance = torch.stack(relevances)
    assert relevance.diagonal(dim1=1, dim2=2).mean().item() == pytest.approx(self_weight, abs=0.02)
    assert torch.special.entr(relevance).sum(2).exp().mean().item() == pytest.approx(neighbours, abs=0.2)


@pytest.mark.parametrize("beta", [-1.0, math.nan, math.inf])
def test_a_beta_out_of_range_is_refused(beta):
    with pytest.raises(ValueError, match=f"beta={beta} must be finite and not negative"):
        KnFu(beta)


def test_an_unknown_divergence_is_refused():
    with pytest.raises(ValueError, match="divergence='hellinger' must be one of kl, js, l2"):
        KnFu(divergence="hellinger")


# -- neighbours and whole answers --------------------------------------------------------------------------------------


def test_all_clients_are_listened_to_and_means_are_compared_where_nothing_else_is_said():
    assert (KnFu().neighbours, KnFu().compare) == (None, "mean")


def test_the_nearest_neighbours_are_heard_in_the_same_proportions_and_nobody_else():
    knowledge = batch(random_soft_labels(6, 5, 4))
    everybody = KnFu().fuse(knowledge, None).relevance
    fused = KnFu(neighbours=2).fuse(knowledge, None)
    kept = torch.zeros_like(everybody).scatter_(1, everybody.topk(2).indices, 1) * everybody
    torch.testing.assert_close(fused.relevance, kept / kept.sum(1, keepdim=True), rtol=0, atol=1e-14)
    expected = torch.einsum("kn,nmc->kmc", fused.relevance, knowledge.soft_labels)
    torch.testing.assert_close(fused_labels(fused), expected, rtol=0, atol=1e-14)


def test_one_neighbour_is_oneself():
    soft_labels = random_soft_labels(6, 5, 4)
    for strategy in (KnFu(neighbours=1), KnFu(divergence="kl", neighbours=1, compare="answers")):
        assert torch.equal(fused_labels(strategy.fuse(batch(soft_labels), None)), soft_labels)


@pytest.mark.parametrize("neighbours", [None, 3])
def test_answers_are_compared_one_by_one(neighbours):
    # The first two have the same mean answer, but never the same answer; the third is like the first.
    soft_labels = torch.tensor([[[0.9, 0.1], [0.1, 0.9]], [[0.1, 0.9], [0.9, 0.1]], [[0.8, 0.2], [0.2, 0.8]]]).double()
    divergence = torch.tensor([0.0, 0.8 * math.log(9), 0.9 * math.log(9 / 8) + 0.1 * math.log(1 / 2)])
    relevance = KnFu(2.0, "kl", neighbours=neighbours, compare="answers").relate(batch(soft_labels))
    expected = torch.softmax(-2.0 * divergence.double(), 0)
    torch.testing.assert_close(relevance[0], expected, rtol=0, atol=0.01)
    by_mean = KnFu(2.0, "kl").relate(batch(soft_labels))
    torch.testing.assert_close(by_mean, torch.full((3, 3), 1 / 3, dtype=torch.float64), rtol=0, atol=1e-6)


def test_as_many_neighbours_as_clients_compare_answers_as_without_a_sketch():
    soft_labels = random_soft_labels(70, 5, 4)
    mask = torch.rand(70, 5, generator=torch.Generator().manual_seed(1)) < 0.7
    mask[:, 2] = False
    for knowledge in (batch(soft_labels), batch(soft_labels * mask.unsqueeze(2), mask)):
        dense = KnFu(divergence="kl", compare="answers").relate(knowledge)
        sketched = KnFu(divergence="kl", neighbours=70, compare="answers").relate(knowledge)
        torch.testing.assert_close(sketched, dense, rtol=0, atol=1e-12)


def test_samples_that_nobody_answered_do_not_dilute_how_answers_compare():
    soft_labels = random_soft_labels(5, 4, 3)
    mask = torch.tensor([True, False, True, True]).expand(5, 4)
    strategy = KnFu(divergence="kl", compare="answers")
    part = strategy.relate(batch(soft_labels * mask.unsqueeze(2), mask))
    torch.testing.assert_close(part, strategy.relate(batch(soft_labels[:, [0, 2, 3]])), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"neighbours": 0}, "neighbours=0 must be 1 or above"),
        ({"compare": "median"}, "compare='median' must be mean or answers"),
        ({"compare": "answers"}, "compare='answers' needs divergence='kl' and no prior_correction"),
        ({"compare": "answers", "divergence": "kl", "prior_correction": True}, "and no prior_correction"),
    ],
)
def test_neighbours_and_comparisons_that_do_not_exist_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        KnFu(**arguments)
