import numpy as np
import pytest
import torch

from fedfuse.transfer.lesson import Lesson
from fedfuse.transfer.margin import Margin, margins

SOFT_LABELS = torch.tensor(
    [[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [1 / 3, 1 / 3, 1 / 3], [0.0, 0.0, 1.0]], dtype=torch.float64
)


def weights_of(step, rows=(0, 1, 2, 3), soft_labels=SOFT_LABELS, weights=None):
    lesson = Lesson(torch.zeros(len(soft_labels), 2), soft_labels, torch.tensor(rows), weights=weights)
    taught, state = step(lesson, {}, 1, np.random.default_rng(0))
    assert taught.rows is lesson.rows
    assert taught.soft_labels is lesson.soft_labels
    assert state == {}
    return taught.weights


def test_raw_weights_are_the_margins_between_the_two_highest_probabilities():
    assert weights_of(Margin(normalise=False)).tolist() == pytest.approx([0.5, 0.1, 0.0, 1.0])


def test_raw_weights_are_wads():
    # WAD: the highest similarity, times one minus the ratio of the second highest to it.
    soft_labels = torch.softmax(torch.randn(50, 5, generator=torch.Generator().manual_seed(0)).double(), 1)
    ordered = soft_labels.sort(dim=1, descending=True).values
    expected = ordered[:, 0] * (1 - ordered[:, 1] / ordered[:, 0])
    torch.testing.assert_close(weights_of(Margin(normalise=False), [0], soft_labels), expected, rtol=0, atol=1e-15)
    assert torch.equal(margins(soft_labels), weights_of(Margin(normalise=False), [0], soft_labels))


def test_normalised_weights_have_a_mean_of_one_over_the_rows_that_are_learnt_from():
    assert Margin() == Margin(normalise=True)
    assert weights_of(Margin()).tolist() == pytest.approx([1.25, 0.25, 0.0, 2.5])
    assert weights_of(Margin(), [0, 1])[[0, 1]].tolist() == pytest.approx([0.5 / 0.3, 0.1 / 0.3])
    # A row that stands twice counts twice.
    assert weights_of(Margin(), [0, 1, 1, 1])[[0, 1]].tolist() == pytest.approx([0.5 / 0.2, 0.1 / 0.2])


def test_rows_without_any_margin_count_nothing():
    assert weights_of(Margin(), [2]).tolist()[2] == 0
    assert weights_of(Margin(), [2]).isfinite().all()


def test_weights_of_a_step_before_are_multiplied():
    before = torch.tensor([2.0, 1.0, 1.0, 0.5], dtype=torch.float64)
    assert weights_of(Margin(normalise=False), weights=before).tolist() == pytest.approx([1.0, 0.1, 0.0, 0.5])


@pytest.mark.parametrize("normalise", [1, "yes", None])
def test_normalise_must_be_true_or_false(normalise):
    with pytest.raises(ValueError, match=f"normalise={normalise!r} must be true or false"):
        Margin(normalise)
