import pytest
import torch
from hostile import ATTACKS, assert_invariants, attacked, batch, consensus, error, honest_answers, random_answers
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.cronus import Cronus
from strategies.fedmd import FedMD

WITHSTOOD = 4  # of 20, a fifth


def test_soft_labels_travel_both_ways_and_a_fifth_of_outliers_is_withstood():
    assert Cronus.sends == Cronus.returns == {"soft_labels"}
    assert Cronus.needs == frozenset()
    assert (Cronus().outliers, Cronus().variance, Cronus().space) == (0.2, 0.01, "probability")


def test_one_step_in_numbers():
    # The mean of the first class is 0.7. On the line of all answers, the distances from it are 0.1, 0.2, 0.7 and 0.
    first = torch.tensor([0.8, 0.8, 0.9, 0.9, 0.9, 0.0, 0.7, 0.7, 0.6, 0.7], dtype=torch.float64)
    answers = torch.stack([first, 1 - first], dim=1).unsqueeze(1)
    left = Cronus(outliers=0.2, variance=0.1).weigh(batch(answers)).squeeze(1)
    squares = torch.tensor([1, 1, 4, 4, 4, 49, 0, 0, 1, 0], dtype=torch.float64)
    # The variance along that line is 2 * 0.064 = 0.128, and below 0.1 after the step.
    assert left.tolist() == pytest.approx((1 - squares / 49).tolist(), abs=1e-12)


def test_one_far_outlier_among_equals_loses_its_weight():
    equal, outlier = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.0, 0.0, 1.0])
    answers = torch.stack([equal] * 9 + [outlier]).double().unsqueeze(1)
    left = Cronus().weigh(batch(answers)).squeeze(1)
    assert left[9] == 0
    assert left[:9].tolist() == pytest.approx([80 / 81] * 9, abs=1e-9)
    torch.testing.assert_close(consensus(Cronus(), answers)[0], answers[0, 0], rtol=0, atol=1e-12)


def test_a_spread_below_the_variance_is_left_as_it_is():
    answers = honest_answers()
    assert (Cronus(variance=0.1).weigh(batch(answers)) == 1).all()
    torch.testing.assert_close(consensus(Cronus(variance=0.1), answers), answers.mean(0), rtol=0, atol=1e-12)


def test_without_outliers_it_is_the_plain_mean():
    answers, _ = random_answers(0, 9)
    torch.testing.assert_close(consensus(Cronus(0), answers), answers.mean(0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("number", [1, 2, 7])
@pytest.mark.parametrize("variance", [0.0, 0.01])
def test_clients_that_agree_change_nothing(number, variance):
    answers = honest_answers(1, 6).expand(number, 6, 5)
    torch.testing.assert_close(consensus(Cronus(variance=variance), answers), answers[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("number", [2, 4, 10])
def test_two_halves_that_disagree_are_averaged(number):
    # Neither is a minority; filtered, all would be as far from the mean and lose all weight.
    answers = torch.eye(2, dtype=torch.float64).repeat(number // 2, 1).unsqueeze(1)
    for outliers in (0.2, 0.49):
        assert (Cronus(outliers).weigh(batch(answers)) == 1).all()
        assert consensus(Cronus(outliers), answers)[0].tolist() == pytest.approx([0.5, 0.5])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), number=st.integers(1, 10), outliers=st.sampled_from([0.0, 0.2, 0.45]))
def test_labels_are_on_the_simplex_whatever_the_order_by_answers_alone(seed, number, outliers):
    assert_invariants(Cronus(outliers), seed, number)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), number=st.integers(1, 20), outliers=st.sampled_from([0.1, 0.2, 0.3, 0.45]))
def test_no_more_weight_is_taken_than_twice_the_outliers_have(seed, number, outliers):
    soft_labels, mask = random_answers(seed, number)
    weights = Cronus(outliers, variance=0.0).weigh(batch(soft_labels * mask.unsqueeze(2), mask))
    assert (weights >= 0).all()
    assert (weights <= mask).all()
    assert (weights.sum(0) >= (1 - 2 * outliers) * mask.sum(0) - 1e-6).all()


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_fifth_of_hostile_clients_hardly_moves_it_where_a_mean_is_moved(attack):
    honest = honest_answers()
    answers = attacked(honest, WITHSTOOD, attack)
    reference = honest[WITHSTOOD:]
    assert error(Cronus(), answers, reference).max() < 0.1
    assert error(Cronus(), answers, reference).mean() < 0.03
    for space in ("logit", "probability"):
        assert error(FedMD(space), answers, reference).max() > 0.3
        assert error(FedMD(space), answers, reference).mean() > 0.1


def test_several_outliers_in_different_directions_are_filtered_one_after_the_other():
    # 2 * 0.15 * 20 steps at most; the outliers, three corners of the simplex, need more than one.
    honest = torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.float64)
    answers = torch.cat([torch.eye(4, dtype=torch.float64)[1:], honest.expand(17, 4)]).unsqueeze(1)
    fused = Cronus(0.15, 1e-4).fuse(batch(answers), None)
    torch.testing.assert_close(fused.common["soft_labels"]["soft_labels"][0], honest, rtol=0, atol=1e-3)
    assert fused.relevance[0, :3].max() < 1e-3


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"outliers": -0.1}, "outliers=-0.1 must be at least 0 and below 0.5"),
        ({"outliers": 0.5}, "outliers=0.5 must be at least 0 and below 0.5"),
        ({"outliers": float("nan")}, "outliers=nan must be at least 0 and below 0.5"),
        ({"variance": -1.0}, "variance=-1.0 must be finite and not negative"),
        ({"variance": float("inf")}, "variance=inf must be finite and not negative"),
        ({"variance": float("nan")}, "variance=nan must be finite and not negative"),
    ],
)
def test_an_argument_outside_of_its_range_is_refused(arguments, text):
    with pytest.raises(ValueError, match=text):
        Cronus(**arguments)
