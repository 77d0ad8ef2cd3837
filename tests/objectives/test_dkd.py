import math

import pytest
import torch

from fedfuse.models.outputs import Outputs
from fedfuse.objectives.dkd import DKD
from fedfuse.objectives.kd import KD

TEMPERATURES = [0.5, 1.0, 4.0]


def random_logits(rows=8, classes=5, seed=0):
    return 3 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def losses_of(logits, soft_labels, objective):
    outputs = Outputs(logits, torch.full((len(logits), 2), math.nan))
    losses, state = objective(outputs, {"soft_labels": soft_labels}, torch.ones(len(logits), dtype=torch.bool), {})
    assert state == {}
    return losses


def test_both_divergences_in_numbers():
    # The first class against the rest is 1/2 to 1/4, and among the rest it is 4/5 to 1/2.
    soft_labels = torch.tensor([[0.5, 0.4, 0.1]], dtype=torch.float64)
    logits = torch.tensor([[0.25, 0.375, 0.375]], dtype=torch.float64).log() + 9
    pair = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    rest = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    assert losses_of(logits, soft_labels, DKD(1.0, alpha=1, beta=0)).tolist() == pytest.approx([pair])
    assert losses_of(logits, soft_labels, DKD(1.0, alpha=0, beta=1)).tolist() == pytest.approx([rest])
    assert losses_of(logits, soft_labels, DKD(1.0, alpha=3, beta=5)).tolist() == pytest.approx([3 * pair + 5 * rest])


def test_temperature_in_numbers():
    # At temperature 2 the soft labels are softened to 4, 2 and 1 of 7; the loss is then taken four times.
    soft_labels = torch.tensor([[1.0, 16.0, 4.0]], dtype=torch.float64) / 21
    pair = 4 / 7 * math.log(12 / 7) + 3 / 7 * math.log(9 / 14)
    rest = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
    losses = losses_of(torch.zeros(1, 3, dtype=torch.float64), soft_labels, DKD(2.0, alpha=1, beta=8))
    assert losses.tolist() == pytest.approx([4 * (pair + 8 * rest)])


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_knowledge_distillation_is_the_sum_with_the_rest_weighed_by_its_own_probability(temperature):
    student, teacher = random_logits(), random_logits(seed=1)
    soft_labels = torch.softmax(teacher, dim=1)
    likeliest = torch.softmax(teacher / temperature, dim=1).amax(1)
    pair = losses_of(student, soft_labels, DKD(temperature, alpha=1, beta=0))
    rest = losses_of(student, soft_labels, DKD(temperature, alpha=0, beta=1))
    expected = losses_of(student, soft_labels, KD(temperature))
    torch.testing.assert_close(pair + (1 - likeliest) * rest, expected, rtol=1e-9, atol=1e-12)


def test_of_two_classes_the_rest_has_nothing_to_tell():
    student, soft_labels = random_logits(classes=2), torch.softmax(random_logits(classes=2, seed=1), dim=1)
    expected = losses_of(student, soft_labels, KD(4.0))
    torch.testing.assert_close(losses_of(student, soft_labels, DKD()), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_a_student_that_agrees_has_no_loss_and_no_gradient(temperature):
    logits = random_logits().requires_grad_()
    losses = losses_of(logits, torch.softmax(logits.detach() - 7, dim=1), DKD(temperature))
    losses.sum().backward()
    assert losses.abs().max() < 1e-10
    assert logits.grad.abs().max() < 1e-10


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_gradient_agrees_with_finite_differences(temperature):
    soft_labels = torch.softmax(random_logits(3, 4, seed=1), dim=1)
    logits = random_logits(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda given: losses_of(given, soft_labels, DKD(temperature)), (logits,))


@pytest.mark.parametrize("temperature", [0.05, 4.0])
def test_soft_labels_of_zero_and_one_give_finite_losses_and_gradients(temperature):
    logits = torch.tensor([[200.0, -200.0, 0.0], [-200.0, 200.0, 0.0]], requires_grad=True)
    losses = losses_of(logits, torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), DKD(temperature))
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert torch.isfinite(logits.grad).all()
    assert losses[0] < losses[1]


def test_of_equally_likely_classes_the_first_is_told_from_the_rest():
    logits = random_logits(1, 3)
    soft_labels = torch.tensor([[0.2, 0.4, 0.4]], dtype=torch.float64)
    nearly = torch.tensor([[0.2, 0.4 + 1e-9, 0.4 - 1e-9]], dtype=torch.float64)
    torch.testing.assert_close(
        losses_of(logits, soft_labels, DKD()), losses_of(logits, nearly, DKD()), rtol=1e-6, atol=0
    )


def test_many_clients_at_once_give_what_each_gives_alone_with_the_same_gradients():
    student = torch.stack([random_logits(seed=seed) for seed in (0, 1)]).requires_grad_()
    soft_labels = torch.stack([torch.softmax(random_logits(seed=seed), dim=1) for seed in (2, 3)])
    together = torch.vmap(lambda logits, target: losses_of(logits, target, DKD()))(student, soft_labels)
    alone = torch.stack([losses_of(*pair, DKD()) for pair in zip(student, soft_labels, strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    (gradient,), (expected,) = (torch.autograd.grad(losses.sum(), student) for losses in (together, alone))
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0 must be positive and finite"),
        ({"temperature": math.nan}, "temperature=nan must be positive and finite"),
        ({"alpha": -1.0}, "alpha=-1.0 must be finite and not negative"),
        ({"beta": math.inf}, "beta=inf must be finite and not negative"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DKD(**arguments)


def test_the_factors_are_those_of_the_paper_and_nothing_is_remembered():
    assert DKD() == DKD(temperature=4, alpha=1, beta=8)
    assert DKD().needs == {"soft_labels"}
    assert DKD().per_sample
    assert DKD().initial_state() == {}
