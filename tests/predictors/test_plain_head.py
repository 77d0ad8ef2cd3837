import math

import pytest
import torch

from fedfuse.models.outputs import Outputs
from fedfuse.predictors.plain_head import PlainHead


def answers_to(logits):
    return PlainHead()(Outputs(torch.tensor(logits), torch.full((len(logits), 2), math.nan)))


def test_answers_are_the_softmax_of_the_logits_whatever_the_features():
    answers = answers_to([[0.0, math.log(3)], [5.0, 5.0], [7 + math.log(4), 7.0]])
    assert answers.tolist() == [pytest.approx(row) for row in ([0.25, 0.75], [0.5, 0.5], [0.8, 0.2])]


def test_large_logits_stay_finite():
    assert answers_to([[1e4, -1e4]]).tolist() == [[1, 0]]
