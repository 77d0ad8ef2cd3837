import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfuse.knowledge import KnowledgeBatch
from strategies.leep_weighted import LEEPWeighted, transferability


def batch(soft_labels, mask=None):
    number, samples, _ = soft_labels.shape
    mask = torch.ones(number, samples, dtype=torch.bool) if mask is None else mask
    return KnowledgeBatch(tuple(range(number)), 1, {"soft_labels": {"soft_labels": soft_labels, "mask": mask}})


def random_soft_labels(*shape, seed=0, size=2.0):
    random = torch.Generator().manual_seed(seed)
    return torch.softmax(size * torch.randn(*shape, generator=random, dtype=torch.float64), dim=2)


def brute_force(soft_labels, mask, target, source):
    """LEEP of a pair by its definition, sample by sample."""
    both = [sample for sample in range(mask.shape[1]) if mask[target, sample] and mask[source, sample]]
    classes = range(soft_labels.shape[2])
    if not both:
        return -math.log(len(classes))
    theta = soft_labels[source].tolist()
    labels = soft_labels[target].argmax(1).tolist()
    joint = {(y, z): sum(theta[x][z] for x in both if labels[x] == y) for y in classes for z in classes}
    mass = {z: sum(joint[y, z] for y in classes) for z in classes}
    likelihoods = [sum(joint[labels[x], z] / mass[z] * theta[x][z] for z in classes if mass[z] > 0) for x in both]
    return sum(math.log(likelihood) for likelihood in likelihoods) / len(both)


def test_soft_labels_travel_both_ways_and_the_temperature_is_that_of_the_method():
    assert LEEPWeighted.sends == LEEPWeighted.returns == {"soft_labels"}
    assert LEEPWeighted.needs == frozenset()
    assert (LEEPWeighted().temperature, LEEPWeighted().space) == (0.1, "probability")


def test_the_measure_in_numbers():
    # Of four samples the first client says A, A, B, B. The second says the same, the third always the same thing, the
    # fourth is half sure: its class z = A goes with A in 3 of 4 parts.
    certain = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    constant = torch.tensor([[0.3, 0.7]] * 4)
    half = torch.tensor([[0.75, 0.25], [0.75, 0.25], [0.25, 0.75], [0.25, 0.75]])
    scores = transferability(batch(torch.stack([certain, certain, constant, half]).double()))
    expected = [0.0, 0.0, -math.log(2), math.log(0.75 * 0.75 + 0.25 * 0.25)]
    assert scores[0].tolist() == pytest.approx(expected, abs=1e-12)
    # What always is the same is explained by everything.
    assert scores[2].tolist() == pytest.approx([0.0] * 4, abs=1e-12)


def test_relevance_is_the_softmax_of_the_measure_and_mixes_the_soft_labels():
    soft_labels = random_soft_labels(4, 9, 3)
    relevance = LEEPWeighted(0.3).relate(batch(soft_labels))
    torch.testing.assert_close(relevance, torch.softmax(transferability(batch(soft_labels)) / 0.3, 1))
    fused = LEEPWeighted(0.3).fuse(batch(soft_labels), None)
    mixed = torch.stack([own["soft_labels"]["soft_labels"] for own in fused.personal.values()])
    torch.testing.assert_close(mixed, torch.einsum("nk,kmc->nmc", relevance, soft_labels), rtol=0, atol=1e-12)


def test_a_client_with_the_same_view_is_heard_more_than_one_that_guesses():
    common = random_soft_labels(1, 60, 4, size=4.0)[0]
    guesses = random_soft_labels(2, 60, 4, seed=1)
    relevance = LEEPWeighted().relate(batch(torch.stack([common, common.roll(1, 0), common, *guesses])))
    assert relevance[0, 2] == pytest.approx(float(relevance[0, 0]), rel=1e-9)
    assert relevance[0, 2] > 10 * relevance[0, [1, 3, 4]].max()


def test_names_of_the_classes_do_not_matter_to_the_measure():
    soft_labels = random_soft_labels(2, 30, 4)
    renamed = torch.stack([soft_labels[0], soft_labels[1].roll(1, dims=1)])
    torch.testing.assert_close(
        transferability(batch(renamed))[0], transferability(batch(soft_labels))[0], rtol=0, atol=1e-12
    )


def test_classes_that_nobody_gives_any_probability_break_nothing():
    answers = torch.eye(5, dtype=torch.float64)[torch.tensor([[0, 1, 0, 1], [0, 1, 1, 1]])]
    scores = transferability(batch(answers))
    assert torch.isfinite(scores).all()
    # Where the second says 1, the first says 1, 0, 1: two of three.
    assert scores[0, 1] == pytest.approx((2 * math.log(2 / 3) + math.log(1 / 3)) / 4)


@pytest.mark.parametrize("number", [1, 2, 7])
def test_clients_that_agree_change_nothing(number):
    soft_labels = random_soft_labels(1, 6, 5).expand(number, 6, 5)
    fused = LEEPWeighted().fuse(batch(soft_labels), None)
    for own in fused.personal.values():
        torch.testing.assert_close(own["soft_labels"]["soft_labels"], soft_labels[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(fused.relevance, torch.full((number, number), 1 / number).double())


def test_who_has_no_sample_in_common_counts_as_guessing():
    mask = torch.tensor([[True, True, False, False], [False, False, True, True], [False] * 4])
    soft_labels = random_soft_labels(3, 4, 5) * mask.unsqueeze(2)
    scores = transferability(batch(soft_labels, mask))
    assert scores[0, 1] == scores[1, 0] == scores[0, 2] == scores[2, 2] == -math.log(5)
    assert LEEPWeighted().relate(batch(soft_labels, mask))[2].tolist() == pytest.approx([1 / 3] * 3)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), number=st.integers(1, 6))
def test_the_measure_is_that_of_the_definition_whatever_the_order_by_answers_alone(seed, number):
    random = torch.Generator().manual_seed(seed)
    soft_labels = random_soft_labels(number, 7, 3, seed=seed)
    mask = torch.rand(number, 7, generator=random) < 0.7
    scores = transferability(batch(soft_labels * mask.unsqueeze(2), mask))
    for target in range(number):
        for source in range(number):
            expected = brute_force(soft_labels, mask, target, source)
            assert float(scores[target, source]) == pytest.approx(expected, abs=1e-10)

    garbage = torch.where(mask.unsqueeze(2), soft_labels, 1e6 * (soft_labels - 0.2))
    order = torch.randperm(number, generator=random)
    relevance = LEEPWeighted().relate(batch(soft_labels * mask.unsqueeze(2), mask))
    other = LEEPWeighted().relate(batch(garbage[order], mask[order]))
    torch.testing.assert_close(other, relevance[order][:, order], rtol=0, atol=1e-10)
    torch.testing.assert_close(relevance.sum(1), torch.ones(number).double(), rtol=0, atol=1e-12)


def test_single_precision_gives_the_same_and_stays_single_precision():
    soft_labels = random_soft_labels(3, 40, 4)
    fused = LEEPWeighted().fuse(batch(soft_labels.float()), None)
    assert fused.personal[0]["soft_labels"]["soft_labels"].dtype == torch.float32
    exact = LEEPWeighted().relate(batch(soft_labels))
    torch.testing.assert_close(fused.relevance.double(), exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_out_of_range_is_refused(temperature):
    with pytest.raises(ValueError, match=f"temperature={temperature} must be finite and positive"):
        LEEPWeighted(temperature)


def test_the_measure_is_taken_on_the_first_samples_that_anybody_answered():
    soft_labels = random_soft_labels(3, 12, 4)
    mask = torch.ones(3, 12, dtype=torch.bool)
    mask[:, :2] = False
    mask[0, 3] = False
    few = LEEPWeighted(samples=5).relate(batch(soft_labels, mask))
    expected = LEEPWeighted(samples=100).relate(batch(soft_labels[:, 2:7], mask[:, 2:7]))
    assert torch.equal(few, expected)
    with pytest.raises(ValueError, match="samples=0 must be at least 1"):
        LEEPWeighted(samples=0)
