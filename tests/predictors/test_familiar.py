import math

import pytest
import torch

from fedfuse.models.outputs import Outputs
from fedfuse.predictors.familiar import Familiar
from fedfuse.predictors.plain_head import PlainHead
from fedfuse.predictors.predictor import DENSITY, Own

# Answers of 1/10, 3/10 and 6/10.
LOGITS = torch.tensor([1.0, 3.0, 6.0], dtype=torch.float64).log()
# Ascending, as they come: the quantile of 1/4 is -4, that of 1/8 is -6.
KNOWN = torch.tensor([-8.0, -4.0, -2.0, -1.0, 0.0], dtype=torch.float64)
NOTHING = torch.zeros(0, dtype=torch.int64)
UNREAD = torch.full((1, 2), math.nan)


def own(known=KNOWN):
    """A client to which a sample is as likely as its only number says."""
    return Own(3, NOTHING, NOTHING, density=lambda inputs: inputs[:, 0].double(), own_densities=known)


def answer_to(log_densities, known=KNOWN, logits=LOGITS, **arguments):
    inputs = torch.tensor(log_densities, dtype=torch.float64).unsqueeze(1)
    outputs = Outputs(logits.expand(len(inputs), len(logits)), UNREAD, UNREAD)
    return Familiar(**arguments).fit(own(known))(outputs, inputs)


def mixed(familiarity):
    return [familiarity * own_answer + (1 - familiarity) / 3 for own_answer in (0.1, 0.3, 0.6)]


# -- in numbers --------------------------------------------------------------------------------------------------------


def test_an_answer_is_flattened_by_how_far_the_sample_is_below_the_quantile():
    # sigmoid(log 3) is 3/4; over a scale of 2 that is at 2 log 3 above the threshold of -4.
    answers = answer_to([-4.0, -4 + 2 * math.log(3), -4 - 2 * math.log(3)], quantile=0.25, scale=2.0)
    for row, familiarity in zip(answers.tolist(), (1 / 2, 3 / 4, 1 / 4), strict=True):
        assert row == pytest.approx(mixed(familiarity), abs=1e-15)


@pytest.mark.parametrize(("quantile", "threshold"), [(0.0, -8.0), (0.125, -6.0), (0.25, -4.0), (1.0, 0.0)])
def test_the_quantile_of_the_own_samples_is_where_an_answer_is_half_even(quantile, threshold):
    assert answer_to([threshold], quantile=quantile)[0].tolist() == pytest.approx(mixed(1 / 2), abs=1e-15)


@pytest.mark.parametrize("scale", [0.5, 3.0, 20.0])
def test_the_scale_is_how_many_nats_below_an_answer_is_flattened_by_as_much(scale):
    assert answer_to([-4 - scale], quantile=0.25, scale=scale)[0].tolist() == pytest.approx(
        mixed(1 / (1 + math.e)), abs=1e-15
    )


def test_the_defaults_in_numbers():
    # The quantile of 1/10 is at -6.4.
    assert answer_to([-6.4 - 3 * math.log(4)])[0].tolist() == pytest.approx(mixed(1 / 5), abs=1e-12)


def test_only_the_difference_from_own_samples_counts():
    moved = answer_to([-1004.0, -990.0], KNOWN - 1000, quantile=0.25)
    torch.testing.assert_close(moved, answer_to([-4.0, 10.0], quantile=0.25), rtol=0, atol=1e-12)


# -- its two limits ----------------------------------------------------------------------------------------------------


def test_on_samples_like_its_own_the_plain_answer_and_far_away_an_even_one():
    like_its_own, far = answer_to([200.0, -1e6])
    expected = PlainHead().fit(own())(Outputs(LOGITS.unsqueeze(0), UNREAD), UNREAD)[0]
    assert torch.equal(like_its_own, expected)
    assert far.tolist() == [1 / 3] * 3


def test_a_tiny_scale_is_a_step_and_a_huge_one_halves_every_answer():
    below, above = answer_to([-4.001, -3.999], quantile=0.25, scale=1e-9).tolist()
    assert below == pytest.approx([1 / 3] * 3, abs=1e-15)
    assert above == pytest.approx([0.1, 0.3, 0.6], abs=1e-15)
    for row in answer_to([-1e6, -4.0, 100.0], quantile=0.25, scale=1e18).tolist():
        assert row == pytest.approx(mixed(1 / 2), abs=1e-9)


@pytest.mark.parametrize("density", [-1e6, 0.0, 1e6])
def test_a_client_with_fewer_than_two_samples_answers_evenly_whatever_is_likely(density):
    assert answer_to([density], KNOWN[:0])[0].tolist() == [1 / 3] * 3


def test_a_client_of_equal_samples_knows_them_and_nothing_else():
    alike, other = answer_to([5.0 + 60, -1e6], torch.full((2,), 5.0, dtype=torch.float64)).tolist()
    assert alike == pytest.approx([0.1, 0.3, 0.6], abs=1e-8)
    assert other == [1 / 3] * 3


# -- what an answer is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_sum_to_one_in_the_precision_of_the_model(dtype):
    random = torch.Generator().manual_seed(0)
    logits = 20 * torch.randn(50, 7, generator=random, dtype=dtype)
    inputs = 20 * torch.randn(50, 1, generator=random, dtype=dtype) - 10
    answers = Familiar().fit(own())(Outputs(logits, UNREAD), inputs)
    assert answers.dtype == dtype
    assert (answers >= 0).all()
    torch.testing.assert_close(answers.sum(1), torch.ones(50, dtype=dtype), rtol=0, atol=1e-6)
    # Whom a sample is more familiar to is surer of it, but never surer than its model, nor of another class.
    plain = torch.softmax(logits, 1)
    assert torch.equal(answers.argmax(1), plain.argmax(1))
    assert (answers.amax(1) <= plain.amax(1) + 1e-6).all()
    variance = answer_to(list(range(-30, 10))).var(1)
    assert (variance.diff() > 0).all()


def test_own_labels_do_not_matter_and_it_needs_the_density_alone():
    assert Familiar().needs == {DENSITY}
    assert not Familiar().tells_labels


def test_without_a_density_it_cannot_be_asked():
    with pytest.raises(AssertionError, match="density of the client's data"):
        Familiar().fit(Own(3, NOTHING, NOTHING))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantile": -0.1}, r"quantile=-0\.1 must be from 0 to 1"),
        ({"quantile": 1.1}, r"quantile=1\.1 must be from 0 to 1"),
        ({"quantile": math.nan}, "quantile=nan must be from 0 to 1"),
        ({"scale": 0.0}, r"scale=0\.0 must be positive and finite"),
        ({"scale": -1.0}, r"scale=-1\.0 must be positive"),
        ({"scale": math.inf}, "scale=inf must be positive and finite"),
        ({"scale": math.nan}, "scale=nan must be positive"),
    ],
)
def test_other_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Familiar(**arguments)
