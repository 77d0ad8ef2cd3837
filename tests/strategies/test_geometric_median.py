from itertools import pairwise

import pytest
import torch
from hostile import ATTACKS, assert_invariants, attacked, batch, consensus, error, honest_answers, random_answers
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.fedmd import FedMD
from strategies.geometric_median import GeometricMedian

WITHSTOOD = 9  # of 20, the most below one half


def test_soft_labels_travel_both_ways_and_a_few_iterations_are_made():
    assert GeometricMedian.sends == GeometricMedian.returns == {"soft_labels"}
    assert GeometricMedian.needs == frozenset()
    assert (GeometricMedian().iterations, GeometricMedian().smoothing) == (15, 1e-3)


def test_one_iteration_in_numbers():
    answers = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]], dtype=torch.float64)
    # From the mean, (2/3, 1/3), the third answer is twice as far as the others.
    weights = GeometricMedian(iterations=1).weigh(batch(answers))
    assert weights.squeeze(1).tolist() == pytest.approx([0.4, 0.4, 0.2], abs=1e-12)
    assert consensus(GeometricMedian(iterations=1), answers)[0].tolist() == pytest.approx([0.8, 0.2], abs=1e-12)


def test_without_an_iteration_it_is_the_plain_mean():
    answers, _ = random_answers(0, 7)
    torch.testing.assert_close(consensus(GeometricMedian(0), answers), answers.mean(0), rtol=0, atol=1e-12)


def test_the_median_of_a_symmetric_triangle_is_its_fermat_point():
    # Angles below 120 degrees: seen from the point, the corners are 120 degrees apart. Here it is the centre.
    answers = torch.tensor([[[0.8, 0.1, 0.1]], [[0.1, 0.8, 0.1]], [[0.1, 0.1, 0.8]]], dtype=torch.float64)
    assert consensus(GeometricMedian(), answers)[0].tolist() == pytest.approx([1 / 3] * 3, abs=1e-12)


def test_many_iterations_reach_the_least_sum_of_distances():
    answers, _ = random_answers(3, 6)
    median = consensus(GeometricMedian(2000, 1e-6), answers)

    def sum_of_distances(point):
        return (answers - point).norm(dim=2).sum(0)

    least = sum_of_distances(median)
    generator = torch.Generator().manual_seed(0)
    for size in (1e-1, 1e-2, 1e-3):
        for _ in range(20):
            moved = median + size * torch.randn(median.shape, generator=generator, dtype=torch.float64)
            assert (sum_of_distances(moved) >= least - 1e-5).all()
    assert (sum_of_distances(answers.mean(0)) > least + 1e-3).all()


def test_each_iteration_lowers_the_sum_of_distances():
    answers, _ = random_answers(4, 9)
    sums = [
        (answers - consensus(GeometricMedian(iterations), answers)).norm(dim=2).sum(0) for iterations in (0, 1, 3, 15)
    ]
    for more, less in pairwise(sums):
        assert (less < more).all()


@pytest.mark.parametrize("number", [1, 2, 7])
def test_clients_that_agree_change_nothing(number):
    answers = honest_answers(1, 6)
    torch.testing.assert_close(
        consensus(GeometricMedian(), answers.expand(number, 6, 5)), answers[0], rtol=0, atol=1e-12
    )


def test_smoothing_averages_answers_that_are_nearer_than_it():
    answers, _ = random_answers(0, 5)
    torch.testing.assert_close(
        consensus(GeometricMedian(15, 1.0), answers / 100 + 0.2475), answers.mean(0) / 100 + 0.2475
    )


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), number=st.integers(1, 8), iterations=st.integers(0, 20))
def test_labels_are_on_the_simplex_whatever_the_order_by_answers_alone(seed, number, iterations):
    assert_invariants(GeometricMedian(iterations), seed, number)


@pytest.mark.parametrize("attack", ATTACKS)
def test_just_under_half_of_hostile_clients_move_it_little_where_a_mean_is_moved(attack):
    honest = honest_answers()
    answers = attacked(honest, WITHSTOOD, attack)
    reference = honest[WITHSTOOD:]
    assert error(GeometricMedian(), answers, reference).mean() < 0.15
    assert error(GeometricMedian(), answers, reference).max() < 0.25
    # More iterations come nearer to the median itself.
    assert error(GeometricMedian(60), answers, reference).mean() < 0.06
    for space in ("logit", "probability"):
        assert error(FedMD(space), answers, reference).mean() > 0.3
        assert error(FedMD(space), answers, reference).max() > 0.6


def test_hostile_clients_are_listened_to_less():
    honest = honest_answers()
    fused = GeometricMedian().fuse(batch(attacked(honest, 4, ATTACKS[0])), None)
    heard = fused.relevance[0]
    assert heard[:4].max() < 0.2 * heard[4:].min()
    assert heard.sum().item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"iterations": -1}, "iterations=-1 must not be negative"),
        ({"smoothing": 0.0}, "smoothing=0.0 must be above 0 and at most 1"),
        ({"smoothing": 2.0}, "smoothing=2.0 must be above 0 and at most 1"),
        ({"smoothing": float("nan")}, "smoothing=nan must be above 0 and at most 1"),
    ],
)
def test_an_argument_outside_of_its_range_is_refused(arguments, text):
    with pytest.raises(ValueError, match=text):
        GeometricMedian(**arguments)
