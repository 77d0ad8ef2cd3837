import pytest
import torch
from hostile import ATTACKS, assert_invariants, attacked, batch, consensus, error, honest_answers, random_answers
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.coordinate_median import CoordinateMedian
from strategies.fedmd import FedMD
from strategies.trimmed_mean import TrimmedMean


def test_soft_labels_travel_both_ways_and_a_fifth_is_left_out_at_each_end():
    assert TrimmedMean.sends == TrimmedMean.returns == {"soft_labels"}
    assert TrimmedMean.needs == frozenset()
    assert TrimmedMean().trim == 0.2


def test_the_trimmed_mean_in_numbers():
    first = torch.tensor([0.0, 0.5, 0.6, 0.8, 1.0], dtype=torch.float64)
    answers = torch.stack([first, 1 - first], dim=1).unsqueeze(1)
    assert consensus(TrimmedMean(0.2), answers)[0].tolist() == pytest.approx([1.9 / 3, 1.1 / 3], abs=1e-12)
    assert consensus(TrimmedMean(0.4), answers)[0].tolist() == pytest.approx([0.6, 0.4], abs=1e-12)
    assert consensus(TrimmedMean(0.19), answers)[0].tolist() == pytest.approx([0.58, 0.42], abs=1e-12)


def test_what_is_left_is_renormalised():
    answers = torch.tensor([[[0.7, 0.2, 0.1]], [[0.5, 0.1, 0.4]], [[0.6, 0.4, 0.0]]], dtype=torch.float64)
    # One of three is left out at each end, so 0.6, 0.2 and 0.1 are left.
    assert consensus(TrimmedMean(0.4), answers)[0].tolist() == pytest.approx([6 / 9, 2 / 9, 1 / 9], abs=1e-12)


def test_whole_clients_are_left_out_whatever_the_rounding():
    # 0.29 * 100 is a little below 29 in floating point.
    first = torch.linspace(0, 1, 100, dtype=torch.float64).square()
    answers = torch.stack([first, 1 - first], dim=1).unsqueeze(1)
    assert consensus(TrimmedMean(0.29), answers)[0, 0].item() == pytest.approx(first[29:71].mean().item(), abs=1e-12)


def test_without_trimming_it_is_the_plain_mean():
    answers, _ = random_answers(0, 7)
    torch.testing.assert_close(consensus(TrimmedMean(0), answers), answers.mean(0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("number", [1, 2, 5, 8])
def test_with_almost_half_left_out_it_is_the_median(number):
    answers, _ = random_answers(0, number)
    torch.testing.assert_close(
        consensus(TrimmedMean(0.49), answers), consensus(CoordinateMedian(), answers), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("number", [1, 2, 7])
def test_clients_that_agree_change_nothing(number):
    answers = honest_answers(1, 6)
    torch.testing.assert_close(consensus(TrimmedMean(), answers.expand(number, 6, 5)), answers[0], rtol=0, atol=1e-12)


def test_hard_labels_of_which_nothing_is_left_teach_nothing():
    answers = torch.eye(3, dtype=torch.float64).unsqueeze(1)
    tensors = TrimmedMean(0.4).fuse(batch(answers), None).common["soft_labels"]
    assert tensors["mask"].tolist() == [False]
    assert tensors["soft_labels"][0].tolist() == pytest.approx([1 / 3] * 3)


def test_numbers_a_little_below_zero_are_taken_for_zero():
    answers = torch.tensor([[[1.0005, -0.0005]]] * 3, dtype=torch.float64)
    assert consensus(TrimmedMean(), answers)[0].tolist() == [1, 0]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), number=st.integers(1, 8), trim=st.sampled_from([0.0, 0.2, 0.34, 0.49]))
def test_labels_are_on_the_simplex_whatever_the_order_by_answers_alone(seed, number, trim):
    assert_invariants(TrimmedMean(trim), seed, number)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("trim", [0.1, 0.2, 0.45])
def test_a_hostile_share_up_to_what_is_left_out_hardly_moves_it_where_a_mean_is_moved(attack, trim):
    honest = honest_answers()
    hostile = round(trim * 20)
    answers = attacked(honest, hostile, attack)
    reference = honest[hostile:]
    bound = {0.1: 0.03, 0.2: 0.06, 0.45: 0.2}[trim]
    assert error(TrimmedMean(trim), answers, reference).max() < bound
    for space in ("logit", "probability"):
        assert error(FedMD(space), answers, reference).max() > 2.5 * bound


def test_one_hostile_client_more_is_felt():
    honest = honest_answers()
    withstood, too_many = (error(TrimmedMean(0.2), attacked(honest, k, ATTACKS[2]), honest[k:]).max() for k in (4, 6))
    assert too_many > 2 * withstood


@pytest.mark.parametrize("trim", [-0.1, 0.5, float("nan")])
def test_a_share_outside_of_its_range_is_refused(trim):
    with pytest.raises(ValueError, match=f"trim={trim} must be at least 0 and below 0.5"):
        TrimmedMean(trim)
