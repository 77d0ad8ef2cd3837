import math

import numpy as np
import pytest
import torch

from fedfuse.transfer.lesson import Lesson
from fedfuse.transfer.partial_mixup import PartialMixup


def make_lesson(number, rows=None, dtype=torch.float64):
    """Inputs, labels, answers and weights from which a mixture tells what it is a mixture of."""
    codes = torch.eye(number, dtype=dtype)
    rows = torch.arange(number) if rows is None else torch.tensor(rows)
    return Lesson(
        codes.reshape(number, 1, number),
        codes,
        rows,
        own=codes.flip(1),
        weights=torch.arange(number).to(dtype),
        domains=torch.eye(3, dtype=dtype)[torch.arange(number) % 3],
    )


def mixed(step, lesson, seed=0):
    after, state = step(lesson, {}, 1, np.random.default_rng(seed))
    assert state == {}
    assert after.rows is lesson.rows
    return after


def changed_rows(before, after):
    return torch.nonzero((before.soft_labels != after.soft_labels).any(1)).squeeze(1).tolist()


@pytest.mark.parametrize(
    ("fraction", "number", "expected"),
    [(0.1, 64, 6), (0.1, 100, 10), (0.5, 7, 4), (1.0, 9, 9), (0.0, 9, 0), (0.1, 4, 0), (1.0, 1, 0), (1.0, 2, 2)],
)
def test_the_share_that_is_mixed_is_exact(fraction, number, expected):
    before = make_lesson(number)
    for seed in range(5):
        assert len(changed_rows(before, mixed(PartialMixup(fraction), before, seed))) == expected


def test_everything_of_a_sample_is_mixed_with_the_same_partner_by_the_same_amount():
    before = make_lesson(10)
    after = mixed(PartialMixup(0.5), before)
    rows = changed_rows(before, after)
    for row in rows:
        label = after.soft_labels[row]
        partner = next(other for other in torch.nonzero(label).squeeze(1).tolist() if other != row)
        amount = label[row].item()
        assert 0 < amount < 1
        assert label[partner].item() == pytest.approx(1 - amount)
        for name in ("inputs", "soft_labels", "own", "weights", "domains"):
            values = getattr(before, name)
            expected = amount * values[row] + (1 - amount) * values[partner]
            torch.testing.assert_close(getattr(after, name)[row], expected, rtol=0, atol=1e-15)
    others = [row for row in range(10) if row not in rows]
    for name in ("inputs", "soft_labels", "own", "weights", "domains"):
        assert torch.equal(getattr(after, name)[others], getattr(before, name)[others])
    # Every pair has an amount of its own.
    assert len({after.soft_labels[row, row].item() for row in rows}) == 5


def test_who_is_mixed_and_with_whom_is_drawn_from_all_rows_that_came_alike():
    step, before = PartialMixup(0.5), make_lesson(8, rows=[0, 1, 2, 3, 4, 5])
    number = torch.zeros(8, 8, dtype=torch.int64)
    for seed in range(2000):
        after = mixed(step, before, seed)
        for row in changed_rows(before, after):
            partner = next(other for other in torch.nonzero(after.soft_labels[row]).squeeze(1).tolist() if other != row)
            number[row, partner] += 1
    assert number.sum() == 6000
    assert number[6:].sum() == number[:, 6:].sum() == number.diagonal().sum() == 0
    # Thirty pairs, with mean 200 and standard deviation 14.
    pairs = number[:6, :6][~torch.eye(6, dtype=torch.bool)]
    assert 135 < pairs.min() <= pairs.max() < 265


def test_a_row_that_stands_twice_counts_once():
    before = make_lesson(8, rows=[2, 2, 2, 2, 5, 5, 5, 6])
    for seed in range(20):
        rows = changed_rows(before, mixed(PartialMixup(0.34), before, seed))
        assert len(rows) == 1
        assert set(rows) <= {2, 5, 6}


@pytest.mark.parametrize(("beta", "mean_square"), [(1.0, 1 / 3), (0.2, 1.2 / 2.8), (10.0, 11 / 42)])
def test_amounts_are_from_a_beta_distribution(beta, mean_square):
    amounts = torch.stack(
        [mixed(PartialMixup(1.0, beta), make_lesson(40), seed).soft_labels.diagonal() for seed in range(100)]
    )
    assert amounts.mean().item() == pytest.approx(0.5, abs=0.03)
    # The second moment of Beta(b, b) is (b + 1) / (4 b + 2).
    assert mean_square == pytest.approx((beta + 1) / (4 * beta + 2))
    assert amounts.square().mean().item() == pytest.approx(mean_square, abs=0.03)


def test_pixels_become_numbers_and_others_keep_their_type():
    pixels = torch.arange(0, 250, 10, dtype=torch.uint8).reshape(25, 1)
    labels = torch.eye(25, dtype=torch.float32)
    before = Lesson(pixels, labels, torch.arange(25))
    after = mixed(PartialMixup(0.2), before)
    assert after.inputs.dtype == torch.float32
    expected = after.soft_labels @ (pixels.float() / 255)
    torch.testing.assert_close(after.inputs, expected, rtol=0, atol=1e-6)
    assert pixels.flatten().tolist() == list(range(0, 250, 10))
    # Also where nothing is mixed: all clients of a cohort need inputs of one type.
    alone = mixed(PartialMixup(0.2), Lesson(pixels, labels, torch.tensor([3])))
    torch.testing.assert_close(alone.inputs, pixels.float() / 255)
    lesson = make_lesson(9, dtype=torch.float32)
    after = mixed(PartialMixup(1.0), lesson)
    assert after.inputs.dtype == after.soft_labels.dtype == after.own.dtype == after.weights.dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fraction": -0.1}, r"fraction=-0.1 must lie in \[0, 1\]"),
        ({"fraction": 1.1}, r"fraction=1.1 must lie in \[0, 1\]"),
        ({"fraction": math.nan}, r"fraction=nan must lie in \[0, 1\]"),
        ({"beta": 0}, "beta=0 must be positive and finite"),
        ({"beta": math.inf}, "beta=inf must be positive and finite"),
        ({"beta": math.nan}, "beta=nan must be positive and finite"),
    ],
)
def test_parameters_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PartialMixup(**arguments)
