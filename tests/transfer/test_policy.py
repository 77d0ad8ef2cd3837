import numpy as np
import pytest
import torch

from fedfuse import catalogue
from fedfuse.components import build
from fedfuse.configuration import Component
from fedfuse.transfer.policy import Past, no_past


@pytest.fixture(params=catalogue.names("transfer/policy", catalogue.folders()))
def policy(request):
    """Every transfer policy that is shipped, as its file configures it."""
    values = catalogue.read("transfer/policy", request.param, catalogue.folders())
    return build(Component(request.param, values.pop("_target_"), values), "transfer policy")


def nothing_known(num_samples):
    """A past in which everything was asked for and nobody answered."""
    nothing = torch.zeros(num_samples, dtype=torch.bool)
    return Past(torch.full((num_samples, 3), 1 / 3), nothing, ~nothing)


def partly_known(num_samples):
    """A past in which every third sample is unknown and every fifth was asked for last."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.arange(num_samples)
    known = numbers % 3 > 0
    answers = torch.softmax(torch.randn(num_samples, 3, generator=generator), 1)
    return Past(torch.where(known.unsqueeze(1), answers, 1 / 3), known, numbers % 5 == 0)


PASTS = [no_past, nothing_known, partly_known]


def test_every_shipped_policy_is_tested():
    assert {"all", "random_subset", "class_balanced", "pcoreset"} <= set(
        catalogue.names("transfer/policy", catalogue.folders())
    )


@pytest.mark.parametrize("past_of", PASTS)
@pytest.mark.parametrize("num_samples", [1, 2, 3, 100, 250])
def test_rows_are_ascending_distinct_and_of_the_transfer_set(policy, past_of, num_samples):
    rows = policy(past_of(num_samples), np.random.default_rng(0))
    assert rows.dtype == torch.int64
    assert rows.ndim == 1
    assert len(rows) >= 1
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert 0 <= rows[0] <= rows[-1] < num_samples


@pytest.mark.parametrize("past_of", PASTS)
def test_the_same_stream_gives_the_same_rows_and_leaves_the_past_as_it_was(policy, past_of):
    past = past_of(250)
    rows = policy(past, np.random.default_rng(3))
    assert torch.equal(rows, policy(past, np.random.default_rng(3)))
    for name, value in vars(past_of(250)).items():
        now = getattr(past, name)
        assert now is None if value is None else torch.equal(now, value)


# Past


def test_before_the_first_round_nothing_was_asked_answered_or_known():
    past = no_past(4)
    assert past.answers is None
    assert past.num_samples == 4
    assert past.known.dtype == past.asked.dtype == torch.bool
    assert past.known.tolist() == past.asked.tolist() == [False] * 4


def test_answers_are_the_mean_over_those_who_answered():
    soft_labels = torch.tensor(
        [
            [[0.9, 0.1], [0.0, 0.0], [0.2, 0.8], [0.0, 0.0]],
            [[0.5, 0.5], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]],
            [[0.1, 0.9], [0.4, 0.6], [0.0, 0.0], [0.0, 0.0]],
        ],
        dtype=torch.float64,
    )
    mask = torch.tensor([[True, False, True, False], [True, True, False, False], [True, True, False, False]])
    past = no_past(4).answered(soft_labels, mask, torch.tensor([0, 1, 2, 3]))
    expected = torch.tensor([[0.5, 0.5], [0.7, 0.3], [0.2, 0.8], [0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(past.answers, expected, rtol=0, atol=1e-15)
    assert past.known.tolist() == [True, True, True, False]
    assert past.asked.tolist() == [True] * 4


def test_what_an_unmasked_client_says_does_not_count():
    soft_labels = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    past = no_past(1).answered(soft_labels, torch.tensor([[True], [False]]), torch.tensor([0]))
    assert past.answers.tolist() == [[1.0, 0.0]]


def test_rows_that_nobody_ever_answered_are_uniform():
    soft_labels, mask = torch.zeros(2, 5, 4), torch.zeros(2, 5, dtype=torch.bool)
    past = no_past(5).answered(soft_labels, mask, torch.tensor([1]))
    assert torch.equal(past.answers, torch.full((5, 4), 0.25))
    assert not past.known.any()
    assert past.asked.tolist() == [False, True, False, False, False]


def test_answers_of_earlier_rounds_are_kept_until_there_are_newer_ones():
    def round_of(past, rows, probability):
        soft_labels, mask = torch.zeros(1, 4, 2, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.bool)
        soft_labels[0, rows] = torch.tensor([probability, 1 - probability], dtype=torch.float64)
        mask[0, rows] = True
        return past.answered(soft_labels, mask, torch.tensor(rows))

    first = round_of(no_past(4), [0, 1], 0.75)
    second = round_of(first, [1, 2], 0.25)
    assert second.answers.tolist() == [[0.75, 0.25], [0.25, 0.75], [0.25, 0.75], [0.5, 0.5]]
    assert second.known.tolist() == [True, True, True, False]
    assert second.asked.tolist() == [False, True, True, False]
    # What came before is left as it was.
    assert first.answers.tolist() == [[0.75, 0.25], [0.75, 0.25], [0.5, 0.5], [0.5, 0.5]]
    assert first.known.tolist() == [True, True, False, False]
    assert first.asked.tolist() == [True, True, False, False]
