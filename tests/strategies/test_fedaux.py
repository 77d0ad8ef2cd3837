import math

import pytest
import torch
from hostile import assert_invariants, batch, consensus, honest_answers
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.fedaux import FedAUX
from strategies.fedmd import FedMD


def test_soft_labels_travel_both_ways_and_logits_are_averaged():
    assert FedAUX.sends == FedAUX.returns == {"soft_labels"}
    assert FedAUX.needs == frozenset()
    assert FedAUX().space == "logit"


def test_consensus_in_numbers():
    # Of two classes the entropy of (0.75, 0.25) is 0.8113 bit; an even answer has one bit.
    answers = torch.tensor([[[0.75, 0.25]], [[0.5, 0.5]], [[1.0, 0.0]]], dtype=torch.float64)
    sure = 1 - (0.75 * math.log2(4 / 3) + 0.25 * math.log2(4))
    expected = [sure + 1e-8, 1e-8, 1 + 1e-8]
    assert FedAUX().weigh(batch(answers)).squeeze(1).tolist() == pytest.approx(expected, abs=1e-12)
    fused = consensus(FedAUX(), answers[:2])[0]
    # The second counts as good as nothing: what is left is the first.
    assert fused.tolist() == pytest.approx([0.75, 0.25], abs=1e-6)
    opposite = torch.tensor([[[0.75, 0.25]], [[0.1, 0.9]]], dtype=torch.float64)
    surer = 1 - (0.1 * math.log2(10) + 0.9 * math.log2(10 / 9))
    logit = (sure * math.log(3) - surer * math.log(9)) / (sure + surer)
    assert float(consensus(FedAUX(), opposite)[0, 0]) == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-7)


def test_equal_scores_give_the_mean_of_logits():
    answers = honest_answers(1, 8)[0]
    alike = torch.stack([answers, answers.roll(1, dims=1), answers.flip(1)])
    torch.testing.assert_close(consensus(FedAUX(), alike), consensus(FedMD("logit"), alike), rtol=0, atol=1e-12)


def test_where_all_are_even_the_consensus_is_even_and_counts():
    even = torch.full((3, 2, 4), 0.25, dtype=torch.float64)
    fused = FedAUX().fuse(batch(even), None).common["soft_labels"]
    assert fused["mask"].all()
    torch.testing.assert_close(fused["soft_labels"], even[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("number", [1, 2, 7])
def test_clients_that_agree_change_nothing(number):
    answers = honest_answers(1, 6).expand(number, 6, 5)
    torch.testing.assert_close(consensus(FedAUX(), answers), answers[0], rtol=0, atol=1e-7)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), number=st.integers(1, 8))
def test_labels_are_on_the_simplex_whatever_the_order_by_answers_alone(seed, number):
    assert_invariants(FedAUX(), seed, number)
