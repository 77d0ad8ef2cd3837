import math

import pytest
import torch

from fedfuse.models.outputs import Outputs
from fedfuse.predictors.predictor import FUSED_HEAD, VALIDATION_OUTPUTS, Own
from fedfuse.predictors.prior_corrected import STRENGTHS, PriorCorrected

# Three samples of class 0 and one of class 1: with one more of each, the prior is 4/7, 2/7, 1/7.
LABELS = torch.tensor([0, 1, 0, 0])
EVEN = torch.zeros(1, 3, dtype=torch.float64)
UNREAD = torch.full((1, 3), math.nan)


def own(validation=None, validation_labels=(), labels=LABELS):
    return Own(3, labels, torch.tensor(validation_labels, dtype=torch.int64), validation=validation)


def answer_to(logits, **arguments):
    return PriorCorrected(**arguments).fit(own())(Outputs(logits, UNREAD), UNREAD)


@pytest.mark.parametrize(
    ("strength", "expected"), [(1, [4 / 7, 2 / 7, 1 / 7]), (0, [1 / 3] * 3), (2.0, [16 / 21, 4 / 21, 1 / 21])]
)
def test_an_even_answer_becomes_the_clients_own_prior_to_the_power_of_the_strength(strength, expected):
    assert answer_to(EVEN, strength=strength)[0].tolist() == pytest.approx(expected, abs=1e-15)


def test_the_answer_is_weighted_by_the_prior_whatever_is_added_to_the_logits():
    answer = torch.tensor([[0.1, 0.3, 0.6]], dtype=torch.float64)
    # 0.1 * 4 : 0.3 * 2 : 0.6 * 1
    for logits in (answer.log(), answer.log() + 5):
        assert answer_to(logits, strength=1.0)[0].tolist() == pytest.approx([0.25, 0.375, 0.375], abs=1e-15)


def test_smoothing_adds_samples_of_each_class():
    answer = answer_to(EVEN, strength=1.0, smoothing=0.5)[0].tolist()
    assert answer == pytest.approx([3.5 / 5.5, 1.5 / 5.5, 0.5 / 5.5], abs=1e-15)
    assert (answer_to(EVEN, strength=1.0, smoothing=1e-9) > 0).all()


def test_a_client_with_evenly_many_samples_of_each_class_corrects_nothing():
    logits = torch.tensor([[0.1, 2.0, -1.0]], dtype=torch.float64)
    fitted = PriorCorrected(strength=1.5).fit(own(labels=torch.tensor([2, 0, 1])))
    torch.testing.assert_close(fitted(Outputs(logits, UNREAD), UNREAD), torch.softmax(logits, 1), rtol=0, atol=1e-15)


def test_the_chosen_head_is_corrected_and_the_other_does_not_matter():
    nan = torch.full((1, 3), math.nan, dtype=torch.float64)
    expected = answer_to(EVEN, strength=1.0)
    plain = PriorCorrected("plain", strength=1.0).fit(own())(Outputs(EVEN, UNREAD, nan), UNREAD)
    fused = PriorCorrected("fused", strength=1.0).fit(own())(Outputs(nan, UNREAD, EVEN), UNREAD)
    assert torch.equal(plain, expected)
    assert torch.equal(fused, expected)


# -- the strength on validation samples --------------------------------------------------------------------------------


def strength_of(logits, labels, head="plain"):
    """Find the strength that was chosen by what becomes of an even answer."""
    outputs = Outputs(logits, logits, logits)
    answer = PriorCorrected(head).fit(own(outputs, labels))(Outputs(EVEN, EVEN, EVEN), UNREAD)[0]
    return (answer[0] / answer[1]).log().item() / math.log(2)


@pytest.mark.parametrize("head", ["plain", "fused"])
@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        # With an even answer the labels are the likeliest where the prior to the power s is as they are distributed.
        ((4, 2, 1), 1.0),
        ((16, 16, 16), 0.0),
        ((16, 4, 1), 1.5),  # 2 would be best
        ((0, 0, 5), 0.0),
        ((40, 28, 20), 0.5),
    ],
)
def test_the_strength_is_that_under_which_the_validation_labels_are_the_likeliest(counts, expected, head):
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    logits = torch.zeros(len(labels), 3, dtype=torch.float64)
    assert strength_of(logits, labels, head) == pytest.approx(expected, abs=1e-9)


def test_a_head_that_knows_the_prior_already_is_not_corrected_again():
    labels = [0] * 4 + [1] * 2 + [2]
    logits = torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64).log().expand(7, 3)
    assert strength_of(logits, labels) == pytest.approx(0, abs=1e-9)


def test_of_equally_likely_strengths_the_smallest_is_taken_and_none_without_samples():
    assert strength_of(torch.zeros(0, 3, dtype=torch.float64), []) == pytest.approx(0, abs=1e-9)
    even = own(Outputs(torch.zeros(2, 3), UNREAD), [0, 2], labels=torch.tensor([0, 1, 2]))
    # Under an even prior no strength changes anything.
    assert torch.equal(PriorCorrected().fit(even)(Outputs(EVEN, UNREAD), UNREAD), torch.softmax(EVEN, 1))
    assert list(STRENGTHS) == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5]


# -- what it asks for --------------------------------------------------------------------------------------------------


def test_it_needs_only_what_it_looks_at():
    assert PriorCorrected(strength=1.0).needs == frozenset()
    assert PriorCorrected().needs == {VALIDATION_OUTPUTS}
    assert PriorCorrected("fused", strength=1.0).needs == {FUSED_HEAD}
    assert PriorCorrected("fused").needs == {FUSED_HEAD, VALIDATION_OUTPUTS}


def test_its_answers_tell_how_often_the_client_has_each_class():
    assert PriorCorrected().tells_labels


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head": "fuse"}, "head=fuse must be plain or fused"),
        ({"smoothing": 0.0}, "smoothing=0.0 must be positive"),
        ({"smoothing": math.inf}, "smoothing=inf must be positive and finite"),
        ({"strength": -0.1}, "strength=-0.1 must be a finite number of at least 0, or validation"),
        ({"strength": math.inf}, "strength=inf must be"),
        ({"strength": math.nan}, "strength=nan must be"),
        ({"strength": "best"}, "strength=best must be"),
        ({"strength": True}, "strength=True must be"),
        ({"strength": None}, "strength=None must be"),
    ],
)
def test_other_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PriorCorrected(**arguments)
