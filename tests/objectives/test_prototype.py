import math

import pytest
import torch

from fedfuse.models.outputs import Outputs
from fedfuse.objectives.prototype import Prototype

PROTOTYPES = torch.tensor([[0.0, 0.0], [1.0, 2.0], [100.0, 100.0]])
KNOWN = torch.tensor([True, True, False])


def losses_of(features, labels, weight=1.0):
    outputs = Outputs(torch.full((len(labels), 3), math.nan), features)
    batch = {"labels": torch.tensor(labels), "prototypes": PROTOTYPES.to(features), "prototype_mask": KNOWN}
    losses, state = Prototype(weight)(outputs, batch, torch.ones(len(labels), dtype=torch.bool), {})
    assert state == {}
    return losses


def test_loss_is_the_mean_squared_distance_from_the_prototype_of_the_own_class():
    features = torch.tensor([[3.0, 4.0], [3.0, 4.0], [1.0, 2.0]])
    # (9 + 16) / 2, (4 + 4) / 2, and no distance at all.
    assert losses_of(features, [0, 1, 1]).tolist() == [12.5, 4.0, 0.0]


def test_weight_multiplies_the_loss():
    features = torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    assert losses_of(features, [0, 1], weight=0.5).tolist() == [6.25, 2.0]
    assert losses_of(features, [0, 1], weight=0).tolist() == [0, 0]


def test_a_class_without_a_prototype_counts_nothing():
    features = torch.tensor([[3.0, 4.0], [3.0, 4.0]], requires_grad=True)
    losses = losses_of(features, [2, 1])
    losses.sum().backward()
    assert losses.tolist() == [0.0, 4.0]
    # The derivative of ((3 - 1)^2 + (4 - 2)^2) / 2.
    assert features.grad.tolist() == [[0.0, 0.0], [2.0, 2.0]]


def test_gradient_agrees_with_finite_differences():
    features = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda given: losses_of(given, [0, 1, 2, 1, 0], weight=0.7), (features,))


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_a_weight_that_is_negative_is_refused(weight):
    with pytest.raises(ValueError, match=f"weight={weight} must be finite and not negative"):
        Prototype(weight)


def test_labels_and_prototypes_are_needed_and_nothing_is_remembered():
    assert Prototype().weight == 1
    assert Prototype().needs == {"labels", "prototypes"}
    assert Prototype().initial_state() == {}
