import math

import pytest
import torch

from fedfuse.models.outputs import Outputs
from fedfuse.objectives.closed_form import closed_form_weight
from fedfuse.predictors.predictor import FUSED_HEAD, VALIDATION_OUTPUTS, Own
from fedfuse.predictors.two_heads import CANDIDATES, TwoHeads

UNREAD = torch.full((2, 3), math.nan)
OUTPUTS = Outputs(
    torch.tensor([[0.0, math.log(3)], [math.log(4), 0.0]], dtype=torch.float64),
    UNREAD,
    torch.tensor([[math.log(9), 0.0], [0.0, 0.0]], dtype=torch.float64),
)


def own(validation=None, labels=(), num_classes=2):
    return Own(num_classes, torch.tensor([0]), torch.tensor(labels, dtype=torch.int64), validation=validation)


def random_own(seed, sharpness=1.0, number=12, num_classes=3):
    """Two heads that both know something of the labels: the second is surer by the factor."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (number,), generator=random)
    hint = 2 * torch.nn.functional.one_hot(labels, num_classes)
    logits, fused = (
        hint + 2 * torch.randn(number, num_classes, generator=random, dtype=torch.float64) for _ in range(2)
    )
    validation = Outputs(logits, logits, sharpness * fused)
    return Own(num_classes, labels, labels, validation=validation)


def mean_log_likelihood(answers, labels):
    return answers[torch.arange(len(labels)), labels].log().mean().item()


# -- a number ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (1.0, [[0.25, 0.75], [0.8, 0.2]]),
        (0, [[0.9, 0.1], [0.5, 0.5]]),
        (0.2, [[0.77, 0.23], [0.56, 0.44]]),
    ],
)
def test_a_weight_mixes_the_answers_of_the_two_heads(weight, expected):
    answers = TwoHeads(weight).fit(own())(OUTPUTS, UNREAD)
    torch.testing.assert_close(answers, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-15)


# -- on validation samples ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", ["closed_form", "grid"])
def test_without_validation_samples_both_heads_count_the_same(weight):
    empty = Outputs(*[torch.zeros(0, 2)] * 3)
    assert torch.equal(TwoHeads(weight).fit(own(empty))(OUTPUTS, UNREAD), TwoHeads(0.5).fit(own())(OUTPUTS, UNREAD))


def test_of_two_heads_that_agree_each_counts_the_same():
    logits = torch.tensor([[0.3, 0.0], [0.0, 0.3], [0.0, 0.3]], dtype=torch.float64)
    agreeing = own(Outputs(logits, logits, logits), [0, 1, 0])
    assert torch.equal(
        TwoHeads("closed_form").fit(agreeing)(OUTPUTS, UNREAD), TwoHeads(0.5).fit(own())(OUTPUTS, UNREAD)
    )


def test_the_closed_form_fits_the_validation_labels_by_least_squares():
    one = random_own(0)
    weight = closed_form_weight(
        torch.softmax(one.validation.logits, 1), torch.softmax(one.validation.fused_logits, 1), one.labels
    )
    assert 0.05 < weight < 0.95
    torch.testing.assert_close(
        TwoHeads("closed_form").fit(one)(OUTPUTS, UNREAD),
        TwoHeads(weight).fit(one)(OUTPUTS, UNREAD),
        rtol=0,
        atol=1e-15,
    )


@pytest.mark.parametrize(("right", "weight"), [("own", 1), ("fused", 0)])
def test_the_closed_form_stays_within_0_and_1(right, weight):
    towards, away = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    logits, fused = (towards, away) if right == "own" else (away, towards)
    fitted = TwoHeads().fit(own(Outputs(logits, logits, fused), [0]))
    assert torch.equal(fitted(OUTPUTS, UNREAD), TwoHeads(weight).fit(own())(OUTPUTS, UNREAD))


@pytest.mark.parametrize(("seed", "sharpness"), [(0, 1.0), (1, 4.0), (2, 0.5), (3, 2.0)])
def test_the_grid_is_searched_for_the_likeliest_validation_labels(seed, sharpness):
    one = random_own(seed, sharpness)
    best = mean_log_likelihood(TwoHeads("grid").fit(one)(one.validation, UNREAD), one.labels)
    for alpha in torch.arange(0, 1.01, 0.05, dtype=torch.float64).tolist():
        for beta in (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 4.0):
            mixed = alpha * torch.softmax(one.validation.logits, 1)
            mixed = mixed + (1 - alpha) * torch.softmax(one.validation.fused_logits / beta, 1)
            assert best >= mean_log_likelihood(mixed, one.labels) - 1e-9


def test_the_grid_softens_a_second_head_that_is_too_sure():
    # It is right in three of four: the labels are the likeliest where it gives 3/4 to its class, at beta 4.
    fused = 4 * math.log(3) * torch.tensor([[1.0, 0], [1, 0], [1, 0], [1, 0]], dtype=torch.float64)
    away = torch.tensor([[0.0, 9]] * 4, dtype=torch.float64)
    fitted = TwoHeads("grid").fit(own(Outputs(away, away, fused), [0, 0, 0, 1]))
    torch.testing.assert_close(fitted(OUTPUTS, UNREAD), torch.softmax(OUTPUTS.fused_logits / 4, 1), rtol=0, atol=1e-15)


def test_the_grid_has_147_points_and_prefers_the_middle():
    assert len(CANDIDATES) == len(set(CANDIDATES)) == 21 * 7
    assert CANDIDATES[0] == (0.5, 1.0)
    assert {alpha for alpha, _ in CANDIDATES} == {step / 20 for step in range(21)}
    distances = [round(abs(alpha - 0.5), 9) for alpha, _ in CANDIDATES]
    assert distances == sorted(distances)
    assert [beta for _, beta in CANDIDATES[:3]] == [1.0, 0.75, 1.25]


def test_of_equally_likely_points_the_nearest_to_one_half_is_taken():
    # Both heads say the same of every sample whatever beta is, so the grid has nothing to choose by.
    even = torch.zeros(3, 2)
    fitted = TwoHeads("grid").fit(own(Outputs(even, even, even), [0, 1, 1]))
    assert torch.equal(fitted(OUTPUTS, UNREAD), TwoHeads(0.5).fit(own())(OUTPUTS, UNREAD))


# -- what it asks for --------------------------------------------------------------------------------------------------


def test_it_needs_validation_samples_only_where_they_decide():
    assert TwoHeads(0.3).needs == {FUSED_HEAD}
    assert TwoHeads("grid").needs == TwoHeads("closed_form").needs == {FUSED_HEAD, VALIDATION_OUTPUTS}
    assert TwoHeads().weight == "closed_form"
    assert not TwoHeads().tells_labels


@pytest.mark.parametrize("weight", [-0.1, 1.1, 2, math.nan, True, "gird", None, [0.5]])
def test_another_weight_is_refused(weight):
    with pytest.raises(ValueError, match=r"weight=.* must be a number from 0 to 1, closed_form or grid"):
        TwoHeads(weight)
