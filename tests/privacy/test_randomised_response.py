import math
from dataclasses import replace
from decimal import Decimal, localcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from protection import EXPOSURE, context

from fedfuse.composition import compose
from fedfuse.errors import ConfigurationError
from fedfuse.privacy.accounting import randomised_response_epsilon
from fedfuse.privacy.guarantee import FROM_THE_SYSTEM, SEEDED
from fedfuse.privacy.randomised_response import RandomisedResponse, share_of_another


def certain(classes, rows=1, answer=0):
    soft_labels = torch.full((rows, classes), 0.1 / classes, dtype=torch.float64)
    soft_labels[:, answer] += 0.9
    return soft_labels


def given(*bits):
    return replace(context(), keystream=SimpleNamespace(integers=lambda number: np.array(bits, dtype=np.uint64)))


@pytest.mark.parametrize("epsilon", [1e-6, 0.1, 1.0, 5.0, 44.0, 46.0, 1e4])
@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_no_answer_is_more_likely_than_the_loss_allows(epsilon, classes):
    another = share_of_another(epsilon, classes)
    own = 2**64 - (classes - 1) * another
    with localcontext() as precise:
        precise.prec = 100
        factor = Decimal(min(epsilon, 200.0)).exp()
        assert another / factor <= own <= another * factor
        # Not by much less than it allows either: one draw of 2**64 fewer would be too many.
        assert (own + classes - 1) > (another - 1) * factor


def test_one_draw_decides_which_class_is_answered():
    another = share_of_another(1.0, 4)
    bits = [0, another - 1, another, 2 * another - 1, 2 * another, 3 * another - 1, 3 * another, 2**64 - 1]
    told = RandomisedResponse(1.0)(certain(4, 8, answer=2), given(*bits))
    assert told.argmax(1).tolist() == [3, 3, 0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("epsilon", [1e-6, 1e3])
def test_the_last_draws_are_the_own_answer_of_two_classes(epsilon):
    another = share_of_another(epsilon, 2)
    told = RandomisedResponse(epsilon)(certain(2, 3), given(another - 1, another, 2**64 - 1))
    expected = [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    assert (told > told.amin(1, keepdim=True)).double().flip(1).tolist() == expected


def test_what_is_told_is_the_posterior_of_the_class():
    told = RandomisedResponse(1.0)(certain(3, 50), context())
    share = 1 / (math.e + 2)
    torch.testing.assert_close(
        told.sort(1).values[0], torch.tensor([share, share, math.e * share], dtype=torch.float64), rtol=1e-12, atol=0
    )
    assert len(told.unique(dim=0)) == 3
    torch.testing.assert_close(told.sum(1), torch.ones(50, dtype=torch.float64), rtol=0, atol=1e-15)


def test_answers_have_the_frequencies_that_are_accounted_for():
    from scipy.stats import chisquare

    number = 100_000
    told = RandomisedResponse(1.5)(certain(5, number, answer=3), context()).argmax(1)
    share = number / (math.exp(1.5) + 4)
    expected = [share, share, share, math.exp(1.5) * share, share]
    assert chisquare(torch.bincount(told, minlength=5).numpy(), expected).pvalue > 0.01


def test_only_the_most_probable_class_is_looked_at():
    first = torch.tensor([[0.4, 0.3, 0.3], [0.1, 0.8, 0.1]], dtype=torch.float64)
    second = torch.tensor([[0.98, 0.01, 0.01], [0.3, 0.4, 0.3]], dtype=torch.float64)
    response = RandomisedResponse(0.5)
    assert torch.equal(response(first, context()), response(second, context()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("epsilon", [1e-6, 1.0, 1e4])
def test_answers_are_probabilities(dtype, epsilon):
    told = RandomisedResponse(epsilon)(certain(10, 30).to(dtype), context())
    assert told.dtype == dtype
    assert (told >= 0).all()
    torch.testing.assert_close(told.sum(1), torch.ones(30, dtype=dtype), rtol=0, atol=1e-6)


def test_the_stream_of_secrets_alone_decides_the_answers():
    soft_labels, response = certain(10, 100), RandomisedResponse(0.5)
    first = response(soft_labels, context(seed=1))
    assert torch.equal(first, response(soft_labels, replace(context(seed=1), generator=None)))
    assert not torch.equal(first, response(soft_labels, context(seed=2)))


def test_the_guarantee_is_composed_over_all_answers():
    guarantee = RandomisedResponse(0.1, delta=1e-6).guarantee(replace(EXPOSURE, num_rows=50, num_classes=7), 4)
    assert guarantee.epsilon == randomised_response_epsilon(0.1, 7, 200, 1e-6)
    assert guarantee.epsilon < 200 * 0.1
    assert (guarantee.delta, guarantee.unit, guarantee.draws) == (1e-6, "client", FROM_THE_SYSTEM)
    assert "randomised response of epsilon 0.1 on the most probable class of 50 samples a round" in str(guarantee)
    assert RandomisedResponse(0.1).guarantee(replace(EXPOSURE, secure=False), 1).draws == SEEDED


def test_what_it_is():
    assert (RandomisedResponse.role, RandomisedResponse.carrier) == ("mechanism", "soft_labels")
    assert not RandomisedResponse.needs_reference
    assert not RandomisedResponse.uses_private_data


@pytest.mark.parametrize("epsilon", [0, -1.0, math.nan, math.inf, 1e-7])
def test_a_loss_that_is_not_positive_is_refused(epsilon):
    with pytest.raises(ValueError, match=f"^epsilon_per_answer={epsilon} must be positive and finite, at least 1e-06$"):
        RandomisedResponse(epsilon)


def test_a_delta_that_lets_a_client_go_unprotected_is_refused():
    with pytest.raises(ValueError, match=r"^delta=0 must be in \(0, 1\)$"):
        RandomisedResponse(1.0, delta=0)
    with pytest.raises(ConfigurationError, match=r"delta=0\.2 of randomised_response must be below 1/10"):
        RandomisedResponse(1.0, delta=0.2).guarantee(EXPOSURE, 1)


def test_the_loss_must_be_chosen():
    with pytest.raises(ConfigurationError, match=r"^privacy randomised_response needs a value for epsilon_per_answer"):
        compose(["privacy=[randomised_response]"])
