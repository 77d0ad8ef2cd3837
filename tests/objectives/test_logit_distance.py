import math

import pytest
import torch

from fedfuse.components import build
from fedfuse.composition import compose
from fedfuse.models.outputs import Outputs
from fedfuse.objectives.kd import KD
from fedfuse.objectives.logit_distance import LogitDistance

NORMS = ["squared", "absolute"]


def random_logits(rows=6, classes=4, seed=0):
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def losses_of(logits, soft_labels, norm):
    outputs = Outputs(logits, torch.full((len(logits), 2), math.nan))
    mask = torch.ones(len(logits), dtype=torch.bool)
    losses, state = LogitDistance(norm)(outputs, {"soft_labels": soft_labels}, mask, {})
    assert state == {}
    return losses


@pytest.mark.parametrize(("norm", "expected"), [("squared", [6.0, 0.0]), ("absolute", [2.0, 0.0])])
def test_loss_in_numbers(norm, expected):
    # Centred, the first student is at 0 0 0 and its soft label at 3 0 -3; the second agrees up to a constant.
    soft_labels = torch.softmax(torch.tensor([[3.0, 0.0, -3.0], [1.0, 2.0, 4.0]], dtype=torch.float64), dim=1)
    logits = torch.tensor([[5.0, 5.0, 5.0], [-1.0, 0.0, 2.0]], dtype=torch.float64)
    assert losses_of(logits, soft_labels, norm).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_constants_of_a_row_do_not_matter(norm):
    student, teacher = random_logits(), random_logits(seed=1)
    expected = losses_of(student, torch.softmax(teacher, dim=1), norm)
    shifts = torch.arange(6.0).unsqueeze(1).double()
    torch.testing.assert_close(losses_of(student - shifts, torch.softmax(teacher + shifts, dim=1), norm), expected)


def test_squared_distance_is_the_limit_of_distillation_at_high_temperatures():
    # The gradient of KD at a high temperature is half that of the squared distance (Hinton et al., 2015).
    student, teacher = random_logits().requires_grad_(), random_logits(seed=1)
    soft_labels = torch.softmax(teacher, dim=1)
    outputs = Outputs(student, student)
    softened, _ = KD(1e4)(outputs, {"soft_labels": soft_labels}, torch.ones(6, dtype=torch.bool), {})
    (expected,) = torch.autograd.grad(losses_of(student, soft_labels, "squared").sum(), student)
    (gradient,) = torch.autograd.grad(softened.sum(), student)
    torch.testing.assert_close(2 * gradient, expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_soft_labels_of_zero_and_one_give_finite_losses_and_gradients(norm):
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    losses = losses_of(logits, torch.tensor([[1.0, 0.0], [1.0, 0.0]]), norm)
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert torch.isfinite(logits.grad).all()
    assert losses[0] < losses[1]


@pytest.mark.parametrize("norm", NORMS)
def test_gradient_agrees_with_finite_differences(norm):
    soft_labels = torch.softmax(random_logits(3, seed=1), dim=1)
    logits = random_logits(3).requires_grad_()
    assert torch.autograd.gradcheck(lambda given: losses_of(given, soft_labels, norm), (logits,))


@pytest.mark.parametrize("norm", NORMS)
def test_many_clients_at_once_give_what_each_gives_alone(norm):
    student = torch.stack([random_logits(seed=seed) for seed in (0, 1)])
    soft_labels = torch.stack([torch.softmax(random_logits(seed=seed), dim=1) for seed in (2, 3)])
    together = torch.vmap(lambda logits, target: losses_of(logits, target, norm))(student, soft_labels)
    alone = torch.stack([losses_of(*pair, norm) for pair in zip(student, soft_labels, strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


def test_another_norm_is_refused():
    with pytest.raises(ValueError, match="norm=cubed must be squared or absolute"):
        LogitDistance("cubed")


@pytest.mark.parametrize(("name", "norm"), [("mse", "squared"), ("mae", "absolute")])
def test_both_norms_have_a_name(name, norm):
    assert build(compose([f"objective={name}"]).objective, "objective") == LogitDistance(norm)


def test_it_judges_samples_and_remembers_nothing():
    assert LogitDistance().norm == "squared"
    assert LogitDistance().needs == {"soft_labels"}
    assert LogitDistance().per_sample
    assert LogitDistance().initial_state() == {}
