import math

import pytest
import torch

from fedfuse.models.outputs import Outputs
from fedfuse.predictors.fused_head import FusedHead
from fedfuse.predictors.predictor import FUSED_HEAD, Own

OWN = Own(num_classes=2, labels=torch.tensor([1, 1, 1]), validation_labels=torch.tensor([1]))


def answers_to(fused_logits):
    unread = torch.full((len(fused_logits), 2), math.nan)
    return FusedHead().fit(OWN)(Outputs(unread, unread, torch.tensor(fused_logits)), unread)


def test_answers_are_the_softmax_of_the_second_heads_logits_whatever_the_first_says():
    answers = answers_to([[0.0, math.log(3)], [5.0, 5.0], [7 + math.log(4), 7.0]])
    assert answers.tolist() == [pytest.approx(row) for row in ([0.25, 0.75], [0.5, 0.5], [0.8, 0.2])]


def test_it_needs_the_second_head_and_tells_no_labels():
    assert FusedHead().needs == {FUSED_HEAD}
    assert not FusedHead().tells_labels


def test_a_model_without_a_second_head_cannot_be_asked():
    with pytest.raises(AssertionError, match="fused head"):
        FusedHead().fit(OWN)(Outputs(torch.zeros(1, 2), torch.zeros(1, 2)), torch.zeros(1))
