import math

import pytest
import torch

from fedfuse.audit.lira import SMALLEST, likelihood_ratios, logit_confidence


def test_confidence_is_the_logarithm_of_the_odds_of_the_true_label():
    soft_labels = torch.tensor([[[0.8, 0.2], [0.5, 0.5]], [[0.1, 0.9], [0.3, 0.7]]])
    odds = [[0.8 / 0.2, 1.0], [0.1 / 0.9, 0.7 / 0.3]]
    confidence = logit_confidence(soft_labels, torch.tensor([0, 1]))
    assert confidence.flatten().tolist() == pytest.approx([math.log(one) for row in odds for one in row])


def test_a_sure_answer_has_a_finite_confidence():
    confidence = logit_confidence(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
    assert confidence.tolist() == pytest.approx([-math.log(SMALLEST), math.log(SMALLEST)])


def test_the_ratio_is_that_of_two_gaussians_with_variances_over_all_samples():
    members = torch.tensor([[True, False], [True, False], [False, True], [False, True]])
    shadows = torch.tensor([[3.0, 0.0], [5.0, 2.0], [1.0, 7.0], [1.0, 9.0]])
    # In: means 4 and 8, squares 1 + 1 + 1 + 1 over 4 - 2. Out: means 1 and 1, squares 0 + 0 + 1 + 1 over 4 - 2.
    inside = [torch.distributions.Normal(mean, math.sqrt(2)) for mean in (4.0, 8.0)]
    outside = torch.distributions.Normal(1.0, 1.0)
    confidences = torch.tensor([3.5, 1.5])
    expected = [(inside[i].log_prob(one) - outside.log_prob(one)).item() for i, one in enumerate(confidences)]
    assert likelihood_ratios(confidences, shadows, members).tolist() == pytest.approx(expected)


def test_shadows_that_all_answer_alike_tell_nothing():
    members = torch.tensor([[True, False], [False, True]])
    ratios = likelihood_ratios(torch.tensor([1.0, 5.0]), torch.full((2, 2), 3.0), members)
    assert ratios.tolist() == [0.0, 0.0]
