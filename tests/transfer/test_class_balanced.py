import math

import numpy as np
import pytest
import torch

from fedfuse.transfer.class_balanced import ClassBalanced
from fedfuse.transfer.policy import Past, no_past

UNKNOWN = 3


def past_of(classes):
    """A past that predicts these of three classes; 3 is a row that nobody answered."""
    classes = torch.tensor(classes)
    known = classes != UNKNOWN
    answers = torch.full((len(classes), 3), 1 / 3)
    answers[known] = torch.nn.functional.one_hot(classes[known], 3).float()
    return Past(answers, known, torch.zeros_like(known))


def counts_of(classes, fraction, seed=0):
    rows = ClassBalanced(fraction)(past_of(classes), np.random.default_rng(seed))
    return torch.bincount(torch.tensor(classes)[rows], minlength=4).tolist()


def test_classes_get_equally_many_rows_however_large_they_are():
    assert counts_of([0] * 70 + [1] * 20 + [2] * 10, 0.3) == [10, 10, 10, 0]


def test_rows_that_nobody_answered_are_a_class_of_their_own():
    assert counts_of([0] * 50 + [1] * 20 + [2] * 10 + [UNKNOWN] * 20, 0.4) == [10, 10, 10, 10]
    # They are uniform, but not of the first class, which here has no rows.
    assert counts_of([1] * 60 + [2] * 20 + [UNKNOWN] * 20, 0.6) == [0, 20, 20, 20]


def test_what_a_class_is_too_small_for_goes_to_the_others():
    assert counts_of([0] * 80 + [1] * 14 + [2] * 6, 0.4) == [20, 14, 6, 0]
    assert counts_of([0] * 50 + [1] * 48 + [2] * 2, 0.4) == [19, 19, 2, 0]


def test_which_classes_get_the_rows_that_are_left_over_is_random():
    counts = [counts_of([0] * 80 + [1] * 10 + [2] * 10, 0.1, seed) for seed in range(600)]
    assert all(sorted(own) == [0, 3, 3, 4] for own in counts)
    more = [own.index(4) for own in counts]
    # The mean is 200, a standard deviation 11.5.
    assert all(150 < more.count(one_class) < 250 for one_class in range(3))


def test_inside_a_class_every_row_is_drawn_about_equally_often():
    past = past_of([0, 1] * 10 + [0] * 10)
    drawn = torch.cat([ClassBalanced(0.2)(past, np.random.default_rng(seed)) for seed in range(600)])
    number = torch.bincount(drawn, minlength=30)
    first, second = past.answers.argmax(1) == 0, past.answers.argmax(1) == 1
    # Three of 20, with mean 90 and standard deviation 8.7; three of 10, with mean 180 and standard deviation 11.2.
    assert 50 < number[first].min() <= number[first].max() < 130
    assert 130 < number[second].min() <= number[second].max() < 230


def test_a_first_round_is_a_random_one():
    rounds = [tuple(ClassBalanced(0.3)(no_past(20), np.random.default_rng(seed)).tolist()) for seed in range(100)]
    assert {len(rows) for rows in rounds} == {6}
    assert len(set(rounds)) > 90


@pytest.mark.parametrize(("fraction", "expected"), [(1, 100), (0.07, 7), (0.071, 8), (1e-12, 1)])
def test_number_of_rows_is_the_fraction_rounded_up(fraction, expected):
    assert sum(counts_of([0] * 70 + [1] * 20 + [2] * 10, fraction)) == expected


@pytest.mark.parametrize("fraction", [0, -0.5, 1.01, math.nan, math.inf])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(ValueError, match=f"fraction={fraction} must lie in "):
        ClassBalanced(fraction)
