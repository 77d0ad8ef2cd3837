import math

import pytest
import torch

from fedfuse.models.outputs import Outputs
from fedfuse.predictors.plain_head import PlainHead
from fedfuse.predictors.predictor import Own

OWN = Own(num_classes=2, labels=torch.tensor([1, 1, 1]), validation_labels=torch.tensor([1]))


def answers_to(logits):
    return PlainHead().fit(OWN)(Outputs(torch.tensor(logits), torch.full((len(logits), 2), math.nan)), torch.empty(0))


def test_answers_are_the_softmax_of_the_logits_whatever_the_features():
    answers = answers_to([[0.0, math.log(3)], [5.0, 5.0], [7 + math.log(4), 7.0]])
    assert answers.tolist() == [pytest.approx(row) for row in ([0.25, 0.75], [0.5, 0.5], [0.8, 0.2])]


def test_large_logits_stay_finite():
    assert answers_to([[1e4, -1e4]]).tolist() == [[1, 0]]


def test_it_needs_nothing_and_tells_no_labels():
    assert PlainHead().needs == frozenset()
    assert not PlainHead().tells_labels
