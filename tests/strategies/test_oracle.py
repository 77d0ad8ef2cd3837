import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfuse.knowledge import KnowledgeBatch
from strategies.knfu import KnFu
from strategies.oracle import Oracle


def batch(label_counts, soft_labels=None, mask=None):
    label_counts = torch.as_tensor(label_counts, dtype=torch.float64)
    number, classes = label_counts.shape
    if soft_labels is None:
        soft_labels = torch.full((number, 5, classes), 1 / classes, dtype=torch.float64)
    mask = torch.ones(number, soft_labels.shape[1], dtype=torch.bool) if mask is None else mask
    tensors = {"soft_labels": {"soft_labels": soft_labels, "mask": mask}}
    return KnowledgeBatch(tuple(range(number)), 1, tensors, label_counts=label_counts)


def stacked(fused):
    return torch.stack([own["soft_labels"]["soft_labels"] for own in fused.personal.values()])


def test_it_says_what_it_sees():
    assert Oracle.needs == {"label_counts"}
    assert Oracle.sends == Oracle.returns == {"soft_labels"}
    for text in (Oracle.__doc__, Oracle.caution):
        assert text.lstrip().startswith("ORACLE: sees private label counts")


def test_without_the_counts_it_does_not_run():
    knowledge = KnowledgeBatch((0,), 1, batch([[1, 2]]).tensors)
    with pytest.raises(KeyError, match="needs must name 'label_counts'"):
        Oracle().relate(knowledge)


def test_relevance_in_numbers():
    # Squared distances of (1/2, 1/2) and (1, 0), a little smoothed.
    smooth = 0.999
    relevance = Oracle(beta=2.0, divergence="l2").relate(batch([[4, 4], [3, 0]]))
    other = math.exp(-2 * smooth**2 * 0.5)
    assert relevance.tolist() == [
        pytest.approx([1 / (1 + other), other / (1 + other)]),
        pytest.approx([other / (1 + other), 1 / (1 + other)]),
    ]


def test_how_many_samples_a_client_has_does_not_matter_only_their_mix():
    relevance = Oracle().relate(batch([[1, 3], [100, 300], [3, 1]]))
    assert relevance[0, 0].item() == pytest.approx(relevance[0, 1].item())
    assert relevance[0, 2] < relevance[0, 1]


@pytest.mark.parametrize("divergence", ["js", "kl", "l2"])
def test_it_is_knfu_with_answers_that_tell_the_label_distribution_exactly(divergence):
    counts = torch.randint(1, 20, (6, 4), generator=torch.Generator().manual_seed(0)).double()
    soft_labels = (counts / counts.sum(1, keepdim=True)).unsqueeze(1).expand(6, 5, 4)
    knowledge = batch(counts, soft_labels)
    expected = KnFu(beta=10.0, divergence=divergence).relate(knowledge)
    torch.testing.assert_close(Oracle(divergence=divergence).relate(knowledge), expected, rtol=0, atol=1e-12)


def test_clients_that_agree_change_nothing_and_one_client_keeps_its_labels():
    soft_labels = torch.softmax(torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0)).double(), 2)
    counts = torch.tensor([[5.0, 0, 0], [1, 1, 1], [0, 2, 9]])
    agreed = stacked(Oracle().fuse(batch(counts, soft_labels.expand(3, 5, 3)), None))
    torch.testing.assert_close(agreed, soft_labels.expand(3, 5, 3), rtol=0, atol=1e-12)
    alone = Oracle().fuse(batch(counts[:1], soft_labels), None)
    torch.testing.assert_close(stacked(alone), soft_labels, rtol=0, atol=1e-12)
    assert alone.relevance.tolist() == [[1.0]]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), number=st.integers(1, 8))
def test_results_follow_the_clients_and_what_was_not_answered_counts_for_nothing(seed, number):
    random = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 9, (number, 4), generator=random).double()
    counts[:, 0] += 1
    soft_labels = torch.softmax(torch.randn(number, 6, 4, generator=random, dtype=torch.float64), 2)
    mask = torch.rand(number, 6, generator=random) < 0.7
    mask[:, 0] = True
    absent = mask.unsqueeze(2)
    fused = Oracle().fuse(batch(counts, soft_labels * absent, mask), None)
    torch.testing.assert_close(stacked(fused).sum(2), torch.ones(number, 6, dtype=torch.float64), rtol=0, atol=1e-12)
    order = torch.randperm(number, generator=random)
    permuted = Oracle().fuse(batch(counts[order], (soft_labels * absent)[order], mask[order]), None)
    torch.testing.assert_close(stacked(permuted), stacked(fused)[order], rtol=0, atol=1e-12)
    garbage = Oracle().fuse(batch(counts, torch.where(absent, soft_labels, 1e6), mask), None)
    torch.testing.assert_close(stacked(garbage), stacked(fused), rtol=0, atol=1e-12)


@pytest.mark.parametrize("beta", [-1, math.nan, math.inf])
def test_a_beta_that_is_negative_is_refused(beta):
    with pytest.raises(ValueError, match=f"beta={beta} must be finite and not negative"):
        Oracle(beta=beta)


def test_an_unknown_divergence_is_refused():
    with pytest.raises(ValueError, match="divergence='tv' must be one of kl, js, l2"):
        Oracle(divergence="tv")
