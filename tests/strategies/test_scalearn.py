import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, one_hot

from fedfuse.knowledge import KnowledgeBatch
from fedfuse.server import Server
from fedfuse.transfer.all import AllRows
from strategies.fedmd import FedMD
from strategies.scalearn import ScaLearn


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


def fused_labels(knowledge, server, regularisation=0.1):
    return ScaLearn(regularisation).fuse(knowledge, server).common["soft_labels"]["soft_labels"]


def test_soft_labels_travel_both_ways_and_labels_are_needed():
    assert ScaLearn.sends == ScaLearn.returns == {"soft_labels"}
    assert ScaLearn.needs_labels
    assert "trained on those samples alone" in ScaLearn.caution
    assert (ScaLearn().regularisation, ScaLearn().space) == (0.01, "log_probability")
    with pytest.raises(ValueError, match=r"set transfer\.labelled"):
        ScaLearn().fuse(batch(random_soft_labels(2, 8, 4)), replace(server_with([0]), labels=None))


def test_scales_of_one_client_in_numbers():
    # One sample of class 0 with log-probabilities (-1, -1): the logit of class 0 over class 1 is a = s_1 - s_0, and
    # the loss log(1 + exp(-a)) + 2 l (a / 2)^2. It is least at a = log 3 if 1 / (1 + 3) = l log 3.
    log_probabilities = torch.full((1, 1, 2), -1.0, dtype=torch.float64)
    scales = ScaLearn(0.25 / math.log(3)).fit(log_probabilities, torch.tensor([0]))
    half = math.log(3) / 2
    assert scales.flatten().tolist() == pytest.approx([1 - half, 1 + half], abs=1e-7)


@pytest.mark.parametrize("number", [1, 3, 20])
@pytest.mark.parametrize("regularisation", [0.01, 0.1, 10.0])
def test_no_other_scales_are_better(number, regularisation):
    log_probabilities = random_soft_labels(number, 20, 4, seed=number).log()
    labels = torch.randint(0, 4, (20,), generator=torch.Generator().manual_seed(1))
    scales = ScaLearn(regularisation).fit(log_probabilities, labels).requires_grad_()
    loss = cross_entropy(torch.einsum("nlc,nc->lc", log_probabilities, scales), labels)
    (slope,) = torch.autograd.grad(loss + regularisation * (scales - 1 / number).square().sum(), scales)
    # The loss is strictly convex: no slope, no better place.
    assert float(slope.abs().max()) < 1e-7


def test_a_perfect_client_is_preferred_and_a_misleading_one_subtracted():
    labels = torch.arange(40) % 4
    perfect = 0.1 * random_soft_labels(1, 40, 4, seed=3)[0] + 0.9 * one_hot(labels, 4)
    # The misleading one finds each sample's own class least likely.
    misleading = 0.1 * random_soft_labels(1, 40, 4, seed=4)[0] + 0.3 * (1 - one_hot(labels, 4))
    soft_labels = torch.stack([perfect, misleading])
    scales = ScaLearn(0.01).fit(soft_labels[:, :20].log(), labels[:20])
    assert (scales[0] > 0.5).all()
    assert (scales[1] < 0).all()
    # On samples whose labels were not seen, what is fused is surer of the truth than the perfect client.
    fused = fused_labels(batch(soft_labels), server_with(labels[:20], 40), 0.01)[20:]
    truth = fused[range(20), labels[20:]]
    assert (truth > perfect[range(20, 40), labels[20:]]).all()


def test_competence_is_learnt_class_by_class():
    # Client 0 tells classes 0 and 1 apart, client 1 classes 2 and 3; between the others each is wrong.
    labels = torch.arange(40) % 4
    right, wrong = one_hot(labels, 4).double(), one_hot(labels ^ 1, 4).double()
    first = (labels < 2).unsqueeze(1)
    soft_labels = 0.9 * torch.stack([torch.where(first, right, wrong), torch.where(first, wrong, right)]) + 0.025
    scales = ScaLearn(0.01).fit(soft_labels.log(), labels)
    assert (scales[0, :2] > scales[1, :2]).all()
    assert (scales[1, 2:] > scales[0, 2:]).all()


@pytest.mark.parametrize("complete", [True, False])
def test_a_strong_pull_is_the_mean_of_fedmd(complete):
    soft_labels = random_soft_labels(4, 8, 4)
    mask = (torch.rand(4, 8, generator=torch.Generator().manual_seed(0)) < 0.6) | torch.tensor(complete)
    mask[:, 5] = complete
    knowledge = batch(soft_labels * mask.unsqueeze(2), mask)
    fused = ScaLearn(1e9).fuse(knowledge, server_with([0, 1, 2, 3])).common["soft_labels"]
    expected = FedMD().fuse(knowledge, None).common["soft_labels"]
    assert torch.equal(fused["mask"], expected["mask"])
    assert bool(fused["mask"][5]) == complete
    torch.testing.assert_close(fused["soft_labels"], expected["soft_labels"], rtol=0, atol=1e-7)


def test_clients_that_agree_have_the_same_scales():
    log_probabilities = random_soft_labels(1, 20, 4).log()
    labels = torch.arange(20) % 4
    scales = ScaLearn().fit(log_probabilities.expand(3, 20, 4), labels)
    assert float((scales - scales[:1]).abs().max()) < 1e-12
    assert float((scales - 1 / 3).abs().max()) > 1e-3


def test_without_an_answer_to_a_labelled_sample_it_is_the_mean():
    mask = torch.tensor([False] * 3 + [True] * 5).expand(3, 8)
    knowledge = batch(random_soft_labels(3, 8, 4) * mask.unsqueeze(2), mask)
    expected = FedMD().fuse(knowledge, None).common["soft_labels"]["soft_labels"]
    torch.testing.assert_close(fused_labels(knowledge, server_with([0, 1, 2])), expected, rtol=0, atol=1e-12)


def test_a_labelled_sample_that_nobody_answered_does_not_dilute_the_others():
    soft_labels, mask = random_soft_labels(3, 8, 4), torch.ones(3, 8, dtype=torch.bool)
    mask[:, 1] = False
    fused = fused_labels(batch(soft_labels * mask.unsqueeze(2), mask), server_with([0, 1, 2]))
    rest = [0, 2, 3, 4, 5, 6, 7]
    expected = fused_labels(batch(soft_labels[:, rest]), server_with([0, 2], 7))
    torch.testing.assert_close(fused[rest], expected, rtol=0, atol=1e-7)


def test_labels_beyond_the_first_count_for_nothing():
    soft_labels, server = random_soft_labels(3, 8, 4), server_with([0, 1, 2])
    other = torch.cat([soft_labels[:, :7], random_soft_labels(3, 1, 4, seed=9)], dim=1)
    fused = fused_labels(batch(soft_labels), server)
    assert torch.equal(fused_labels(batch(other), server)[:7], fused[:7])
    mean = FedMD().fuse(batch(soft_labels), None).common["soft_labels"]["soft_labels"]
    assert float((fused - mean).abs().max()) > 0.01


def test_a_probability_of_zero_is_no_obstacle():
    soft_labels = one_hot(torch.tensor([[0, 1, 2, 3], [1, 1, 2, 2]]), 4).float()
    fused = fused_labels(batch(soft_labels), server_with([0, 1, 2, 3], 4))
    assert fused.dtype == torch.float32
    assert torch.isfinite(fused).all()
    assert fused.argmax(1).tolist() == [0, 1, 2, 3]


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), number=st.integers(1, 6))
def test_results_follow_the_clients_and_what_was_not_answered_counts_for_nothing(seed, number):
    random = torch.Generator().manual_seed(seed)
    soft_labels = random_soft_labels(number, 8, 4, seed=seed)
    mask = torch.rand(number, 8, generator=random) < 0.7
    absent = mask.unsqueeze(2)
    server = server_with(torch.randint(0, 4, (5,), generator=random))
    labels = fused_labels(batch(soft_labels * absent, mask), server)
    assert (labels >= 0).all()
    torch.testing.assert_close(labels.sum(1), torch.ones(8, dtype=torch.float64), rtol=0, atol=1e-12)
    order = torch.randperm(number, generator=random)
    permuted = fused_labels(batch((soft_labels * absent)[order], mask[order]), server)
    torch.testing.assert_close(permuted, labels, rtol=0, atol=1e-6)
    garbage = fused_labels(batch(torch.where(absent, soft_labels, 1e6), mask), server)
    assert torch.equal(garbage, labels)


def test_permuting_the_clients_permutes_the_scales():
    log_probabilities = random_soft_labels(5, 20, 4).log()
    labels, order = torch.arange(20) % 4, torch.tensor([3, 1, 0, 4, 2])
    scales = ScaLearn().fit(log_probabilities, labels)
    torch.testing.assert_close(ScaLearn().fit(log_probabilities[order], labels), scales[order], rtol=0, atol=1e-7)


@pytest.mark.parametrize("regularisation", [0, -1, math.nan, math.inf])
def test_a_regularisation_that_is_not_positive_is_refused(regularisation):
    with pytest.raises(ValueError, match=f"regularisation={regularisation} must be finite and above 0"):
        ScaLearn(regularisation)
