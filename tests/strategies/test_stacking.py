import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import one_hot

from fedfuse.knowledge import KnowledgeBatch
from fedfuse.server import Server
from fedfuse.transfer.all import AllRows
from strategies.stacking import Stacking, to_simplex


def batch(soft_labels, mask=None):
    number, samples, _ = soft_labels.shape
    mask = torch.ones(number, samples, dtype=torch.bool) if mask is None else mask
    return KnowledgeBatch(tuple(range(number)), 1, {"soft_labels": {"soft_labels": soft_labels, "mask": mask}})


def server_with(labels, num_transfer=8, num_classes=4):
    return Server(
        seed=0,
        transfer_inputs=torch.zeros(num_transfer, 1),
        transfer_digest="digest",
        class_names=tuple("abcdefghij"[:num_classes]),
        architectures={},
        dtype=torch.float64,
        transfer_rows=AllRows(),
        labels=torch.as_tensor(labels),
    )


def random_soft_labels(*shape, seed=0, size=2.0):
    random = torch.Generator().manual_seed(seed)
    return torch.softmax(size * torch.randn(*shape, generator=random, dtype=torch.float64), dim=2)


def fused_labels(fused):
    return fused.common["soft_labels"]["soft_labels"]


def test_soft_labels_travel_both_ways_and_labels_are_needed():
    assert Stacking.sends == Stacking.returns == {"soft_labels"}
    assert Stacking.needs_labels
    assert "trained on those samples alone" in Stacking.caution
    assert (Stacking().regularisation, Stacking().space) == (0.01, "probability")
    with pytest.raises(ValueError, match=r"set transfer\.labelled"):
        Stacking().fuse(batch(random_soft_labels(2, 8, 4)), replace(server_with([0]), labels=None))


def test_weights_in_numbers():
    # One sample of class 0, answered with 0.8 and 0.4: (0.8 u + 0.4 (1 - u) - 1)^2 twice, and 0.18 ((u - 1/2)^2 +
    # (1 - u - 1/2)^2). With u = 1/2 + v: 2 (0.4 v - 0.4)^2 + 0.36 v^2, least at v = 0.32 / 0.68 = 8/17.
    soft_labels = torch.tensor([[[0.8, 0.2]], [[0.4, 0.6]]], dtype=torch.float64)
    server = server_with([0], 1, 2)
    weights = Stacking(0.18).fit(batch(soft_labels), server)
    assert weights.tolist() == pytest.approx([0.5 + 8 / 17, 0.5 - 8 / 17], abs=1e-12)
    fused = Stacking(0.18).fuse(batch(soft_labels), server)
    assert fused_labels(fused)[0].tolist() == pytest.approx([0.6 + 0.4 * 8 / 17, 0.4 - 0.4 * 8 / 17], abs=1e-12)
    assert fused.relevance.tolist() == [weights.tolist()] * 2


@pytest.mark.parametrize("number", [2, 5, 40])
@pytest.mark.parametrize("regularisation", [1e-4, 0.01, 1.0])
def test_no_other_weights_are_better(number, regularisation):
    soft_labels = random_soft_labels(number, 30, 4, seed=number)
    labels = torch.randint(0, 4, (20,), generator=torch.Generator().manual_seed(1))
    weights = Stacking(regularisation).fit(batch(soft_labels), server_with(labels, 30)).requires_grad_()

    mixture = torch.einsum("n,nmc->mc", weights, soft_labels[:, :20])
    loss = (mixture - one_hot(labels, 4)).square().sum(1).mean() + regularisation * (
        weights - 1 / number
    ).square().sum()
    (slope,) = torch.autograd.grad(loss, weights)
    # The loss is convex: it falls towards no corner of the simplex, so it falls nowhere.
    assert float(weights.detach() @ slope - slope.min()) < 1e-6
    assert (weights >= 0).all()
    assert float(weights.detach().sum()) == pytest.approx(1, abs=1e-12)


def test_a_perfect_client_gets_all_the_weight_and_a_misleading_one_none():
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    perfect = one_hot(labels, 4).double()
    soft_labels = torch.stack([perfect.roll(1, 1), perfect, torch.full((6, 4), 0.25, dtype=torch.float64)])
    weights = Stacking().fit(batch(soft_labels), server_with(labels, 6))
    # Only the pull to the mean leaves the one that knows nothing a little: 0.75 v^2 + 0.01 (v^2 + (1 - v)^2) is least.
    assert weights.tolist() == pytest.approx([0, 76 / 77, 1 / 77], abs=1e-12)


def test_the_weights_apply_to_all_samples_and_labels_beyond_the_first_count_for_nothing():
    soft_labels = random_soft_labels(3, 8, 4)
    server = server_with([0, 1, 2])
    weights = Stacking().fit(batch(soft_labels), server)
    assert weights.max() > 0.5
    fused = Stacking().fuse(batch(soft_labels), server)
    expected = torch.einsum("n,nmc->mc", weights, soft_labels)
    torch.testing.assert_close(fused_labels(fused), expected, rtol=0, atol=1e-12)
    other = torch.cat([soft_labels[:, :3], random_soft_labels(3, 5, 4, seed=9)], dim=1)
    assert torch.equal(Stacking().fit(batch(other), server), weights)


def test_clients_that_agree_count_alike_and_change_nothing():
    soft_labels = random_soft_labels(1, 8, 4).expand(5, 8, 4)
    fused = Stacking().fuse(batch(soft_labels), server_with([0, 1, 2, 3]))
    torch.testing.assert_close(fused.relevance, torch.full((5, 5), 0.2, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(fused_labels(fused), soft_labels[0], rtol=0, atol=1e-12)


def test_a_strong_pull_is_the_mean_and_one_client_keeps_its_labels():
    soft_labels = random_soft_labels(4, 8, 4)
    server = server_with([0, 1, 2, 3])
    strong = fused_labels(Stacking(1e9).fuse(batch(soft_labels), server))
    torch.testing.assert_close(strong, soft_labels.mean(0), rtol=0, atol=1e-8)
    alone = Stacking().fuse(batch(soft_labels[:1]), server)
    torch.testing.assert_close(fused_labels(alone), soft_labels[0], rtol=0, atol=1e-12)
    assert alone.relevance.tolist() == [[1.0]]


def test_without_an_answer_to_a_labelled_sample_all_count_alike():
    mask = torch.tensor([False] * 3 + [True] * 5).expand(3, 8)
    soft_labels = random_soft_labels(3, 8, 4) * mask.unsqueeze(2)
    fused = Stacking().fuse(batch(soft_labels, mask), server_with([0, 1, 2]))
    assert fused.relevance.flatten().tolist() == pytest.approx([1 / 3] * 9, abs=1e-12)
    assert fused.common["soft_labels"]["mask"].tolist() == mask[0].tolist()


def test_who_did_not_answer_counts_as_the_mean_of_those_who_did():
    soft_labels, labels = random_soft_labels(4, 8, 4), [0, 1, 2, 3]
    mask = torch.ones(4, 8, dtype=torch.bool)
    mask[2, 1] = False
    filled = soft_labels.clone()
    filled[2, 1] = soft_labels[[0, 1, 3], 1].mean(0)
    expected = Stacking().fit(batch(filled), server_with(labels))
    weights = Stacking().fit(batch(soft_labels * mask.unsqueeze(2), mask), server_with(labels))
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-12)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), number=st.integers(1, 8))
def test_results_follow_the_clients_and_what_was_not_answered_counts_for_nothing(seed, number):
    random = torch.Generator().manual_seed(seed)
    soft_labels = random_soft_labels(number, 8, 4, seed=seed)
    mask = torch.rand(number, 8, generator=random) < 0.7
    absent = mask.unsqueeze(2)
    server = server_with(torch.randint(0, 4, (5,), generator=random))
    fused = Stacking().fuse(batch(soft_labels * absent, mask), server)
    labels = fused_labels(fused)
    assert (labels >= 0).all()
    torch.testing.assert_close(labels.sum(1), torch.ones(8, dtype=torch.float64), rtol=0, atol=1e-12)
    order = torch.randperm(number, generator=random)
    permuted = Stacking().fuse(batch((soft_labels * absent)[order], mask[order]), server)
    torch.testing.assert_close(permuted.relevance, fused.relevance[order][:, order], rtol=0, atol=1e-10)
    torch.testing.assert_close(fused_labels(permuted), labels, rtol=0, atol=1e-10)
    garbage = Stacking().fuse(batch(torch.where(absent, soft_labels, 1e6), mask), server)
    assert torch.equal(fused_labels(garbage), labels)


def test_single_precision_stays_single():
    fused = Stacking().fuse(batch(random_soft_labels(3, 8, 4).float()), server_with([0, 1]))
    assert fused_labels(fused).dtype == torch.float32


def test_nearest_points_of_the_simplex_in_numbers():
    assert to_simplex(torch.tensor([0.3, 0.7])).tolist() == pytest.approx([0.3, 0.7])
    assert to_simplex(torch.tensor([2.0, 0.0, -5.0])).tolist() == [1, 0, 0]
    assert to_simplex(torch.tensor([0.5, 0.7, -1.0])).tolist() == pytest.approx([0.4, 0.6, 0])
    assert to_simplex(torch.tensor([-3.0])).tolist() == [1]


@pytest.mark.parametrize("regularisation", [0, -1, math.nan, math.inf])
def test_a_regularisation_that_is_not_positive_is_refused(regularisation):
    with pytest.raises(ValueError, match=f"regularisation={regularisation} must be finite and above 0"):
        Stacking(regularisation)
