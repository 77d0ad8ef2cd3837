import math

import pytest
import torch

from fedfuse.models.outputs import Outputs
from fedfuse.objectives.cross_entropy import CrossEntropy


def losses_of(logits, labels):
    outputs = Outputs(logits, torch.full((len(labels), 2), math.nan))
    losses, state = CrossEntropy()(outputs, {"labels": labels}, torch.ones(len(labels), dtype=torch.bool), {})
    assert state == {}
    return losses


def test_cross_entropy_in_numbers():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [math.log(3), 0.0, -math.inf, -math.inf]], dtype=torch.float64)
    losses = losses_of(logits, torch.tensor([2, 1]))
    assert losses.tolist() == pytest.approx([math.log(4), math.log(4)])


def test_cross_entropy_equals_that_of_torch():
    random = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(50, 10, generator=random)
    labels = torch.randint(10, (50,), generator=random)
    losses = losses_of(logits, labels)
    assert losses.shape == (50,)
    expected = torch.nn.NLLLoss(reduction="none")(torch.log_softmax(logits, dim=1), labels)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(losses.mean(), torch.nn.CrossEntropyLoss()(logits, labels))


def test_large_logits_stay_finite():
    losses = losses_of(torch.tensor([[1e4, -1e4], [1e4, -1e4]]), torch.tensor([0, 1]))
    assert losses.tolist() == [0, 2e4]


def test_only_labels_are_needed_and_nothing_is_remembered():
    assert CrossEntropy().needs == {"labels"}
    assert CrossEntropy().initial_state() == {}
