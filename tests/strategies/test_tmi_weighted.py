import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal

from fedfuse.knowledge import KnowledgeBatch
from strategies.tmi_weighted import TMIWeighted, transferability


def batch(soft_labels, mask=None):
    number, samples, _ = soft_labels.shape
    mask = torch.ones(number, samples, dtype=torch.bool) if mask is None else mask
    return KnowledgeBatch(tuple(range(number)), 1, {"soft_labels": {"soft_labels": soft_labels, "mask": mask}})


def random_soft_labels(*shape, seed=0, size=2.0):
    random = torch.Generator().manual_seed(seed)
    return torch.softmax(size * torch.randn(*shape, generator=random, dtype=torch.float64), dim=2)


def features_of(soft_labels):
    """One client's centred log-probabilities ``[M, C]`` of unit mean square."""
    logits = soft_labels.log()
    logits = logits - logits.mean(1, keepdim=True)
    logits = logits - logits.mean(0)
    return logits / logits.square().mean().sqrt().clamp_min(1e-8)


def brute_force(soft_labels, mask, target, source):
    """The entropy of a pair by its definition, class by class."""
    features = torch.zeros_like(soft_labels[source])
    features[mask[source]] = features_of(soft_labels[source][mask[source]])
    both = mask[target] & mask[source]
    labels = soft_labels[target].argmax(1)
    result = 0.0
    for label in range(soft_labels.shape[2]):
        inside = features[both & (labels == label)]
        if len(inside) > 1:
            deviation = inside.std(0, correction=0).clamp_min(0.1)
            result += len(inside) / int(both.sum()) * float(Normal(0, deviation).entropy().mean())
    return result


def test_soft_labels_travel_both_ways_and_the_weights_are_mild():
    assert TMIWeighted.sends == TMIWeighted.returns == {"soft_labels"}
    assert TMIWeighted.needs == frozenset()
    assert (TMIWeighted().temperature, TMIWeighted().space) == (1.0, "probability")


def test_the_measure_in_numbers():
    # Logits +-1, +-1, so features of one and the same size. In the first client's classes, A, A, B, B, its own features
    # do not vary at all; those of the second, A, B, A, B, have the deviation 1.
    first = torch.softmax(torch.tensor([[1.0, -1], [1, -1], [-1, 1], [-1, 1]]).double(), 1)
    second = first[[0, 2, 1, 3]]
    scores = transferability(batch(torch.stack([first, second])))
    free, tight = (0.5 * math.log(2 * math.pi * math.e * variance) for variance in (1.0, 0.01))
    assert scores.flatten().tolist() == pytest.approx([tight, free, free, tight], abs=1e-12)
    relevance = TMIWeighted(2.0).relate(batch(torch.stack([first, second])))
    # The entropies differ by the logarithm of ten.
    assert float(relevance[0, 1] / relevance[0, 0]) == pytest.approx(math.sqrt(10))


def test_how_sure_a_client_is_of_everything_does_not_matter():
    logits = torch.randn(3, 20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = transferability(batch(torch.softmax(logits, 2)))
    logits[1] *= 4
    torch.testing.assert_close(transferability(batch(torch.softmax(logits, 2))), scores, rtol=0, atol=1e-10)


def test_relevance_mixes_the_soft_labels():
    soft_labels = random_soft_labels(4, 9, 3)
    relevance = TMIWeighted().relate(batch(soft_labels))
    torch.testing.assert_close(relevance, torch.softmax(transferability(batch(soft_labels)), 1))
    fused = TMIWeighted().fuse(batch(soft_labels), None)
    mixed = torch.stack([own["soft_labels"]["soft_labels"] for own in fused.personal.values()])
    torch.testing.assert_close(mixed, torch.einsum("nk,kmc->nmc", relevance, soft_labels), rtol=0, atol=1e-12)


@pytest.mark.parametrize("number", [1, 2, 7])
def test_clients_that_agree_change_nothing(number):
    soft_labels = random_soft_labels(1, 6, 5).expand(number, 6, 5)
    fused = TMIWeighted().fuse(batch(soft_labels), None)
    for own in fused.personal.values():
        torch.testing.assert_close(own["soft_labels"]["soft_labels"], soft_labels[0], rtol=0, atol=1e-12)


def test_constant_and_certain_answers_break_nothing():
    answers = torch.stack([torch.full((4, 3), 1 / 3), torch.eye(3)[[0, 1, 2, 0]], torch.eye(3)[[1, 1, 1, 1]]]).double()
    assert torch.isfinite(transferability(batch(answers))).all()


def test_who_has_no_sample_in_common_counts_nothing_but_the_even_score():
    mask = torch.tensor([[True, True, False, False], [False, False, True, True], [False] * 4])
    soft_labels = random_soft_labels(3, 4, 5) * mask.unsqueeze(2)
    scores = transferability(batch(soft_labels, mask))
    assert scores[0, 1] == scores[1, 0] == scores[0, 2] == scores[2, 2] == 0
    assert TMIWeighted().relate(batch(soft_labels, mask))[2].tolist() == pytest.approx([1 / 3] * 3)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), number=st.integers(1, 6))
def test_the_measure_is_that_of_the_definition_whatever_the_order_by_answers_alone(seed, number):
    random = torch.Generator().manual_seed(seed)
    soft_labels = random_soft_labels(number, 9, 3, seed=seed)
    mask = torch.rand(number, 9, generator=random) < 0.7
    scores = transferability(batch(soft_labels * mask.unsqueeze(2), mask))
    for target in range(number):
        for source in range(number):
            expected = brute_force(soft_labels, mask, target, source)
            assert float(scores[target, source]) == pytest.approx(expected, abs=1e-10)

    garbage = torch.where(mask.unsqueeze(2), soft_labels, 1e6 * (soft_labels - 0.2))
    order = torch.randperm(number, generator=random)
    relevance = TMIWeighted().relate(batch(soft_labels * mask.unsqueeze(2), mask))
    other = TMIWeighted().relate(batch(garbage[order], mask[order]))
    torch.testing.assert_close(other, relevance[order][:, order], rtol=0, atol=1e-10)
    torch.testing.assert_close(relevance.sum(1), torch.ones(number).double(), rtol=0, atol=1e-12)


def test_single_precision_gives_the_same_and_stays_single_precision():
    soft_labels = random_soft_labels(3, 40, 4)
    fused = TMIWeighted().fuse(batch(soft_labels.float()), None)
    assert fused.personal[0]["soft_labels"]["soft_labels"].dtype == torch.float32
    exact = TMIWeighted().relate(batch(soft_labels))
    torch.testing.assert_close(fused.relevance.double(), exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_out_of_range_is_refused(temperature):
    with pytest.raises(ValueError, match=f"temperature={temperature} must be finite and positive"):
        TMIWeighted(temperature)


def test_the_measure_is_taken_on_the_first_samples_that_anybody_answered():
    soft_labels = random_soft_labels(3, 12, 4)
    mask = torch.ones(3, 12, dtype=torch.bool)
    mask[:, :2] = False
    mask[0, 3] = False
    few = TMIWeighted(samples=5).relate(batch(soft_labels, mask))
    expected = TMIWeighted(samples=100).relate(batch(soft_labels[:, 2:7], mask[:, 2:7]))
    assert torch.equal(few, expected)
    with pytest.raises(ValueError, match="samples=0 must be at least 1"):
        TMIWeighted(samples=0)
