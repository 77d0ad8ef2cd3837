import math

import pytest
import torch

from fedfuse.models.outputs import Outputs
from fedfuse.objectives.class_logits import ClassLogits

# Others answer the first class with (1/2, 1/2), the second with (1/4, 3/4); of the third they know nothing.
CLASS_LOGITS = torch.tensor([[7.0, 7.0], [0.0, math.log(3)], [1e6, -1e6]], dtype=torch.float64)
KNOWN = torch.tensor([True, True, False])


def losses_of(logits, labels, weight=1.0):
    outputs = Outputs(logits, torch.full((len(labels), 3), math.nan))
    batch = {"labels": torch.tensor(labels), "class_logits": CLASS_LOGITS.to(logits), "class_logits_mask": KNOWN}
    losses, state = ClassLogits(weight)(outputs, batch, torch.ones(len(labels), dtype=torch.bool), {})
    assert state == {}
    return losses


def test_loss_is_the_divergence_from_the_answer_of_others_to_the_own_class():
    logits = torch.tensor([[0.0, math.log(3)], [2.0, 2.0], [0.0, math.log(3)]], dtype=torch.float64)
    first = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    second = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert losses_of(logits, [0, 1, 1]).tolist() == pytest.approx([first, second, 0.0], abs=1e-15)


def test_weight_multiplies_the_loss():
    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    once = losses_of(logits, [0, 1, 1, 0])
    torch.testing.assert_close(losses_of(logits, [0, 1, 1, 0], weight=0.25), 0.25 * once)
    assert losses_of(logits, [0, 1, 1, 0], weight=0).tolist() == [0] * 4


def test_a_class_that_nobody_else_has_counts_nothing():
    logits = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    losses = losses_of(logits, [2, 1])
    losses.sum().backward()
    assert losses[0].item() == 0
    # The derivative of the divergence is the difference of the probabilities.
    assert logits.grad.tolist() == [[0, 0], pytest.approx([0.5 - 0.25, 0.5 - 0.75])]


def test_gradient_agrees_with_finite_differences():
    logits = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda given: losses_of(given, [0, 1, 2, 1, 0], weight=0.7), (logits,))


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_a_weight_that_is_negative_is_refused(weight):
    with pytest.raises(ValueError, match=f"weight={weight} must be finite and not negative"):
        ClassLogits(weight)


def test_labels_and_class_logits_are_needed_and_nothing_is_remembered():
    assert ClassLogits().needs == {"labels", "class_logits"}
    assert ClassLogits().initial_state() == {}
