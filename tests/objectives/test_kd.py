import math

import pytest
import torch
from torch.nn import functional

from fedfuse.models.outputs import Outputs
from fedfuse.objectives.kd import KD

TEMPERATURES = [0.5, 1.0, 4.0]


def random_logits(rows=8, classes=5, seed=0):
    return 3 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def losses_of(logits, soft_labels, temperature=1.0):
    outputs = Outputs(logits, torch.full((len(logits), 2), math.nan))
    mask = torch.ones(len(logits), dtype=torch.bool)
    losses, state = KD(temperature)(outputs, {"soft_labels": soft_labels}, mask, {})
    assert state == {}
    return losses


def test_divergence_in_numbers():
    logits = torch.tensor([[0.0, 0.0]], dtype=torch.float64)
    soft_labels = torch.tensor([[0.75, 0.25]], dtype=torch.float64)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert losses_of(logits, soft_labels).tolist() == pytest.approx([expected])


def test_temperature_in_numbers():
    # At temperature 2 the soft labels 0.9 and 0.1 are softened to 0.75 and 0.25; the loss is then taken four times.
    logits = torch.tensor([[0.0, 0.0]], dtype=torch.float64)
    soft_labels = torch.tensor([[0.9, 0.1]], dtype=torch.float64)
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert losses_of(logits, soft_labels, temperature=2.0).tolist() == pytest.approx([expected])


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_loss_is_the_squared_temperature_times_the_divergence_of_the_softened_logits(temperature):
    student, teacher = random_logits(), random_logits(seed=1)
    # The teacher's own logits, at a level that its soft labels do not tell.
    divergence = functional.kl_div(
        torch.log_softmax(student / temperature, dim=1),
        torch.softmax((teacher + 40) / temperature, dim=1),
        reduction="none",
    ).sum(1)
    losses = losses_of(student, torch.softmax(teacher, dim=1), temperature)
    torch.testing.assert_close(losses, temperature**2 * divergence, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_a_student_that_agrees_has_no_loss_and_no_gradient(temperature):
    logits = random_logits().requires_grad_()
    losses = losses_of(logits, torch.softmax(logits.detach() - 7, dim=1), temperature)
    losses.sum().backward()
    assert losses.abs().max() < 1e-12
    assert logits.grad.abs().max() < 1e-12


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_loss_is_positive_where_the_student_differs(temperature):
    assert (losses_of(random_logits(), torch.softmax(random_logits(seed=1), dim=1), temperature) > 0).all()


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_gradient_agrees_with_finite_differences(temperature):
    soft_labels = torch.softmax(random_logits(3, 4, seed=1), dim=1)
    logits = random_logits(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda given: losses_of(given, soft_labels, temperature), (logits,))


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_gradient_is_the_temperature_times_the_difference_of_the_softened_answers(temperature):
    student, teacher = random_logits().requires_grad_(), random_logits(seed=1)
    losses_of(student, torch.softmax(teacher, dim=1), temperature).sum().backward()
    difference = torch.softmax(student.detach() / temperature, dim=1) - torch.softmax(teacher / temperature, dim=1)
    torch.testing.assert_close(student.grad, temperature * difference, rtol=1e-9, atol=1e-12)


def test_soft_labels_of_zero_and_one_give_finite_losses_and_gradients():
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    losses = losses_of(logits, torch.tensor([[1.0, 0.0], [1.0, 0.0]]), temperature=2.0)
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert torch.isfinite(logits.grad).all()
    assert losses[0] < losses[1]


def test_a_hard_label_gives_the_cross_entropy():
    logits = random_logits()
    hard = functional.one_hot(torch.arange(8) % 5, 5).double()
    expected = functional.cross_entropy(logits, torch.arange(8) % 5, reduction="none")
    torch.testing.assert_close(losses_of(logits, hard), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match=f"temperature={temperature} must be positive and finite"):
        KD(temperature)


def test_soft_labels_are_needed_as_they_came_and_nothing_is_remembered():
    assert KD().temperature == 1
    assert KD().needs == {"soft_labels"}
    assert KD().initial_state() == {}
