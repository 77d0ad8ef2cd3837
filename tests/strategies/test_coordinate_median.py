import pytest
import torch
from hostile import ATTACKS, assert_invariants, attacked, batch, consensus, error, honest_answers
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.coordinate_median import CoordinateMedian
from strategies.fedmd import FedMD

WITHSTOOD = 9  # of 20, the most below one half


def test_soft_labels_travel_both_ways():
    assert CoordinateMedian.sends == CoordinateMedian.returns == {"soft_labels"}
    assert CoordinateMedian.needs == frozenset()


def test_the_median_of_an_odd_number_in_numbers():
    answers = torch.tensor([[[0.7, 0.2, 0.1]], [[0.5, 0.1, 0.4]], [[0.1, 0.6, 0.3]]], dtype=torch.float64)
    # The medians are 0.5, 0.2 and 0.3.
    assert consensus(CoordinateMedian(), answers)[0].tolist() == pytest.approx([0.5, 0.2, 0.3], abs=1e-12)
    answers[2, 0] = torch.tensor([0.6, 0.4, 0.0], dtype=torch.float64)
    # They are 0.6, 0.2 and 0.1, which sum to 0.9.
    assert consensus(CoordinateMedian(), answers)[0].tolist() == pytest.approx([6 / 9, 2 / 9, 1 / 9], abs=1e-12)


def test_of_an_even_number_the_middle_two_are_averaged():
    answers = torch.tensor([[[0.9, 0.1]], [[0.8, 0.2]], [[0.4, 0.6]], [[0.0, 1.0]]], dtype=torch.float64)
    assert consensus(CoordinateMedian(), answers)[0].tolist() == pytest.approx([0.6, 0.4], abs=1e-12)
    assert consensus(CoordinateMedian(), answers[:2])[0].tolist() == pytest.approx([0.85, 0.15], abs=1e-12)


@pytest.mark.parametrize("number", [1, 2, 7])
def test_clients_that_agree_change_nothing(number):
    answers = honest_answers(1, 6)
    torch.testing.assert_close(
        consensus(CoordinateMedian(), answers.expand(number, 6, 5)), answers[0], rtol=0, atol=1e-12
    )


def test_hard_labels_without_a_majority_teach_nothing():
    answers = torch.eye(3, dtype=torch.float64).unsqueeze(1).repeat(1, 2, 1)
    answers[0, 1] = answers[1, 1]
    tensors = CoordinateMedian().fuse(batch(answers), None).common["soft_labels"]
    assert tensors["mask"].tolist() == [False, True]
    assert tensors["soft_labels"][0].tolist() == pytest.approx([1 / 3] * 3)
    assert tensors["soft_labels"][1].tolist() == [0, 1, 0]


def test_numbers_a_little_below_zero_are_taken_for_zero():
    answers = torch.tensor([[[1.0005, -0.0005]]] * 3, dtype=torch.float64)
    assert consensus(CoordinateMedian(), answers)[0].tolist() == [1, 0]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), number=st.integers(1, 8))
def test_labels_are_on_the_simplex_whatever_the_order_by_answers_alone(seed, number):
    assert_invariants(CoordinateMedian(), seed, number)


@pytest.mark.parametrize("attack", ATTACKS)
def test_just_under_half_of_hostile_clients_hardly_move_it_where_a_mean_is_moved(attack):
    honest = honest_answers()
    answers = attacked(honest, WITHSTOOD, attack)
    reference = honest[WITHSTOOD:]
    assert error(CoordinateMedian(), answers, reference).mean() < 0.05
    assert error(CoordinateMedian(), answers, reference).max() < 0.2
    for space in ("logit", "probability"):
        assert error(FedMD(space), answers, reference).mean() > 0.3
        assert error(FedMD(space), answers, reference).max() > 0.6


def test_half_of_hostile_clients_break_it():
    honest = honest_answers()
    assert error(CoordinateMedian(), attacked(honest, 10, ATTACKS[2]), honest[10:]).mean() > 0.3
