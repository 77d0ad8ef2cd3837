import io
import math

import pytest
import torch
from hostile import assert_invariants, batch, honest_answers, random_answers
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.dynamic_logits import DynamicLogits


class Fresh:
    """Always the first round."""

    def fuse(self, knowledge, server):
        return DynamicLogits().fuse(knowledge, server)


def labels_of(fused):
    return fused.common["soft_labels"]["soft_labels"]


def divergence(p, q):
    return (p * (p / q).log()).sum(-1)


def objective(consensus, base, answers):
    """The method's, with one base for all: of each sample ``[M]``."""
    forward = divergence(consensus, base) - divergence(answers, base)
    backward = divergence(base, consensus) - divergence(base, answers)
    return (forward.square() + backward.square()).sum(0)


def brute_force(base, answers):
    best = base.clone()
    least = objective(best, base, answers)
    step = (answers.log() - base.log()).mean(0)
    for weight in range(1, 21):
        moved = torch.softmax(base.log() + weight / 10 * step, dim=1)
        error = objective(moved, base, answers)
        best[error < least] = moved[error < least]
        least = torch.minimum(error, least)
    return best


def test_soft_labels_travel_both_ways():
    assert DynamicLogits.sends == DynamicLogits.returns == {"soft_labels"}
    assert DynamicLogits.needs == frozenset()


def test_every_round_is_the_best_of_the_grid_by_the_definition():
    strategy = DynamicLogits()
    base = torch.full((6, 4), 0.25, dtype=torch.float64)
    for seed in range(3):
        answers, _ = random_answers(seed, 5)
        fused = strategy.fuse(batch(answers), None)
        base = brute_force(base, answers)
        torch.testing.assert_close(labels_of(fused), base, rtol=0, atol=1e-10)


def test_what_disagreement_cancels_is_made_up_for():
    # The clients' divergences from the even base are on average 0.184 and 0.255. That of the mean logit, ln(9) / 2, are
    # too small; at 1.3 times as much they are 0.202 and 0.236, at 1.2 and 1.4 times farther away in all.
    answers = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]], dtype=torch.float64)
    fused = labels_of(DynamicLogits().fuse(batch(answers), None))
    assert float(torch.logit(fused[0, 0])) == pytest.approx(1.3 * math.log(9) / 2, abs=1e-9)


def test_clients_that_did_not_move_leave_the_consensus():
    strategy = DynamicLogits()
    before = labels_of(strategy.fuse(batch(random_answers(0, 4)[0]), None))
    after = labels_of(strategy.fuse(batch(before.expand(3, *before.shape)), None))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-12)


def test_steps_in_opposite_directions_leave_it_too():
    answers = torch.tensor([[[0.9, 0.1]], [[0.1, 0.9]]], dtype=torch.float64)
    assert labels_of(DynamicLogits().fuse(batch(answers), None))[0].tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("number", [1, 2, 7])
def test_clients_that_agree_change_nothing_wherever_they_come_from(number):
    strategy = DynamicLogits()
    strategy.fuse(batch(honest_answers(3, 6)), None)
    soft_labels = honest_answers(1, 6, spread=2.0).expand(number, 6, 5)
    torch.testing.assert_close(labels_of(strategy.fuse(batch(soft_labels), None)), soft_labels[0], rtol=0, atol=1e-6)


def test_certain_answers_break_nothing():
    strategy = DynamicLogits()
    for label in (0, 1, 1):
        certain = torch.eye(3, dtype=torch.float64)[label].expand(2, 4, 3)
        fused = labels_of(strategy.fuse(batch(certain), None))
        torch.testing.assert_close(fused, certain[0], rtol=0, atol=1e-6)


def test_a_sample_that_nobody_answered_keeps_its_consensus_and_is_not_learnt_from():
    strategy = DynamicLogits()
    answers, _ = random_answers(0, 4)
    before = labels_of(strategy.fuse(batch(answers), None))
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[:, 2], mask[1, 3] = False, False
    fused = strategy.fuse(batch(answers.roll(1, 2) * mask.unsqueeze(2), mask), None)
    assert fused.common["soft_labels"]["mask"].tolist() == [True, True, False, True, True, True]
    assert torch.equal(labels_of(fused)[2], before[2])
    expected = brute_force(before[3:4], answers.roll(1, 2)[[0, 2, 3], 3:4])
    torch.testing.assert_close(labels_of(fused)[3:4], expected, rtol=0, atol=1e-10)
    # The second client answered four samples, the others five.
    torch.testing.assert_close(fused.relevance[0], torch.tensor([5, 4, 5, 5]).double() / 19)


def test_state_survives_being_saved_and_loaded():
    strategy, other = DynamicLogits(), DynamicLogits()
    assert strategy.state_dict() == {"consensus": None}
    strategy.fuse(batch(random_answers(0, 3)[0]), None)
    file = io.BytesIO()
    torch.save(strategy.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    saved = strategy.state_dict()["consensus"].clone()
    kept = strategy.state_dict()["consensus"]
    following = batch(random_answers(1, 3)[0])
    expected = labels_of(strategy.fuse(following, None))
    assert torch.equal(labels_of(other.fuse(following, None)), expected)
    assert not torch.allclose(labels_of(DynamicLogits().fuse(following, None)), expected, atol=1e-3)
    assert torch.equal(kept, saved)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), number=st.integers(1, 8))
def test_labels_are_on_the_simplex_whatever_the_order_by_answers_alone(seed, number):
    assert_invariants(Fresh(), seed, number)
