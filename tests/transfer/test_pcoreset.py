import math

import numpy as np
import pytest
import torch

from fedfuse.transfer.pcoreset import PCoreSet
from fedfuse.transfer.policy import Past, no_past


def past_of(answers, asked, unknown=()):
    answers = torch.tensor(answers, dtype=torch.float64)
    known, before = torch.ones(len(answers), dtype=torch.bool), torch.zeros(len(answers), dtype=torch.bool)
    known[list(unknown)] = False
    before[list(asked)] = True
    return Past(answers, known, before)


def rows_of(past, budget, seed=0):
    return PCoreSet(budget)(past, np.random.default_rng(seed)).tolist()


def by_brute_force(past, budget):
    """Greedy k-centre as it is defined, with all distances anew at every step."""
    answers = [tuple(row) for row in past.answers.tolist()]
    start = [row for row in range(len(answers)) if past.asked[row] and past.known[row]]
    chosen = []
    for _ in range(budget):

        def key(row):
            others = start + chosen
            distance = min((math.dist(answers[row], answers[other]) for other in others), default=math.inf)
            entropy = -sum(p * math.log(p) for p in answers[row] if p > 0)
            return round(distance, 12), round(entropy, 12), -row

        chosen.append(max((row for row in range(len(answers)) if past.known[row] and row not in chosen), key=key))
    return sorted(chosen)


LINE = [[p, 1 - p] for p in (0.5, 0.55, 0.75, 0.3, 0.0, 0.98)]


def test_the_first_pick_is_the_sample_farthest_from_those_of_the_round_before():
    assert rows_of(past_of(LINE, asked=[0]), 1) == [4]
    assert rows_of(past_of(LINE, asked=[4]), 1) == [5]
    assert rows_of(past_of(LINE, asked=[0, 4]), 1) == [5]


def test_the_next_pick_is_far_from_the_first_pick_too():
    # After 0.0 and 0.98 the largest gaps are around 0.75 and 0.3.
    assert rows_of(past_of(LINE, asked=[0]), 2) == [4, 5]
    assert rows_of(past_of(LINE, asked=[0]), 3) == [2, 4, 5]
    assert rows_of(past_of(LINE, asked=[0]), 4) == [2, 3, 4, 5]


@pytest.mark.parametrize("seed", range(5))
def test_it_is_greedy_k_centre(seed):
    generator = torch.Generator().manual_seed(seed)
    answers = torch.softmax(2 * torch.randn(40, 4, generator=generator, dtype=torch.float64), 1)
    past = past_of(answers.tolist(), asked=range(0, 40, 6))
    assert rows_of(past, 12) == by_brute_force(past, 12)


def test_of_equally_far_samples_that_with_the_higher_entropy_comes_first_then_that_with_the_lower_number():
    one_hot = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    assert rows_of(past_of(one_hot, asked=[0]), 1) == [1]
    assert rows_of(past_of(one_hot, asked=[0]), 2) == [1, 2]
    # Nothing to be far from: all are equally far.
    answers = [[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.2, 0.8]]
    assert rows_of(past_of(answers, asked=[]), 1) == [1]
    # All were asked for, so all are equally near.
    assert rows_of(past_of(answers, asked=range(4)), 2) == [1, 2]
    assert rows_of(past_of(answers, asked=range(4)), 3) == [1, 2, 3]


def test_samples_that_were_asked_for_and_not_answered_are_nothing_to_start_from():
    # The first is uniform because nobody answered it; the second happens to be.
    answers = [[0.5, 0.5], [0.5, 0.5], [0.9, 0.1], [0.7, 0.3], [0.8, 0.2]]
    past = past_of(answers, asked=[0, 2], unknown=[0])
    # One at random, which is the unknown one; the other is the farthest from 0.9.
    assert rows_of(past, 2) == [0, 1]


@pytest.mark.parametrize(("budget", "num_unknown"), [(1, 1), (4, 2), (5, 3), (9, 5)])
def test_half_of_the_budget_rounded_up_goes_to_samples_that_nobody_answered(budget, num_unknown):
    generator = torch.Generator().manual_seed(0)
    answers = torch.softmax(torch.randn(40, 3, generator=generator, dtype=torch.float64), 1).tolist()
    rows = rows_of(past_of(answers, asked=range(20, 25), unknown=range(20)), budget)
    assert len(rows) == budget
    assert sum(row < 20 for row in rows) == num_unknown
    # The others are chosen as if there were no unknown samples.
    known = past_of(answers[20:], asked=range(5))
    assert [row - 20 for row in rows if row >= 20] == by_brute_force(known, budget - num_unknown)


def test_unknown_samples_are_drawn_at_random():
    past = past_of([[0.5, 0.5]] * 30, asked=[], unknown=range(20))
    drawn = torch.tensor([rows_of(past, 8, seed)[:4] for seed in range(500)]).flatten()
    # The mean is 100, a standard deviation 8.9.
    assert drawn.max() < 20
    assert 60 < torch.bincount(drawn, minlength=20).min() <= torch.bincount(drawn).max() < 140


def test_few_unknown_samples_leave_the_budget_to_the_others_and_few_answered_ones_to_the_unknown():
    answers = [[p, 1 - p] for p in np.linspace(0, 1, 10)]
    few_unknown = rows_of(past_of(answers, asked=[5], unknown=[0, 9]), 6)
    assert {0, 9} <= set(few_unknown)
    assert len(few_unknown) == 6
    few_known = rows_of(past_of(answers, asked=[5], unknown=[0, 1, 2, 3, 4, 6, 7, 8, 9]), 6)
    assert 5 in few_known
    assert len(few_known) == 6


def test_the_first_round_is_random_and_as_large_as_the_budget():
    rounds = [tuple(rows_of(no_past(30), 7, seed)) for seed in range(100)]
    assert {len(rows) for rows in rounds} == {7}
    assert len(set(rounds)) > 90


@pytest.mark.parametrize("budget", [6, 7, 1000])
def test_a_budget_for_all_asks_for_all(budget):
    assert rows_of(past_of(LINE, asked=[0]), budget) == rows_of(no_past(6), budget) == [0, 1, 2, 3, 4, 5]


def test_a_large_budget_costs_no_square_of_the_transfer_set():
    # All pairs of these would be 320 GB.
    answers = torch.softmax(torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0)), 1)
    known = torch.ones(200_000, dtype=torch.bool)
    rows = PCoreSet(50)(Past(answers, known, torch.arange(200_000) < 50), np.random.default_rng(0))
    assert len(rows) == 50


@pytest.mark.parametrize("budget", [0, -1, 1.5, True, "3"])
def test_a_budget_that_is_no_whole_number_of_at_least_one_is_refused(budget):
    with pytest.raises(ValueError, match=f"budget={budget!r} must be a whole number of at least 1"):
        PCoreSet(budget)
