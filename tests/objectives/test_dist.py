import math

import numpy as np
import pytest
import torch

from fedfuse.models.outputs import Outputs
from fedfuse.objectives.dist import DIST

MASK = torch.tensor([True, True, False, True, True, False])


def random_logits(rows=6, classes=4, seed=0):
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_soft_labels(rows=6, classes=4, seed=1):
    return torch.softmax(random_logits(rows, classes, seed), dim=1)


def loss_of(logits, soft_labels, objective, mask=None):
    outputs = Outputs(logits, torch.full((len(logits), 2), math.nan))
    mask = torch.ones(len(logits), dtype=torch.bool) if mask is None else mask
    loss, state = objective(outputs, {"soft_labels": soft_labels}, mask, {})
    assert state == {}
    assert loss.shape == ()
    return loss


def mean_distance(first, second):
    return np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(first, second, strict=True)])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_loss_is_the_mean_distance_by_correlation_of_rows_and_of_columns(temperature):
    logits, teacher = random_logits(), random_logits(seed=1)
    answers = torch.softmax(logits / temperature, dim=1).numpy()
    targets = torch.softmax(teacher / temperature, dim=1).numpy()
    expected = 2 * mean_distance(answers, targets) + 3 * mean_distance(answers.T, targets.T)
    loss = loss_of(logits, torch.softmax(teacher + 5, dim=1), DIST(2.0, 3.0, temperature))
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_opposite_answers_are_two_away():
    soft_labels = torch.tensor([[0.6, 0.4], [0.3, 0.7]], dtype=torch.float64)
    logits = torch.tensor([[0.1, 0.9], [0.8, 0.2]], dtype=torch.float64).log()
    assert loss_of(logits, soft_labels, DIST(inter=1, intra=0)).item() == pytest.approx(2)
    assert loss_of(logits, soft_labels, DIST(inter=0, intra=1)).item() == pytest.approx(2)


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.01])
def test_soft_labels_that_are_less_sure_by_scale_and_shift_ask_for_the_same(scale):
    logits = random_logits().requires_grad_()
    soft_labels = random_soft_labels()
    loss, other = (loss_of(logits, target, DIST()) for target in (soft_labels, scale * soft_labels + (1 - scale) / 4))
    assert other.item() == pytest.approx(loss.item(), rel=1e-9)
    (gradient,), (other_gradient,) = (torch.autograd.grad(one, logits) for one in (loss, other))
    torch.testing.assert_close(other_gradient, gradient, rtol=1e-8, atol=1e-12)


def test_a_student_that_is_less_sure_by_scale_and_shift_has_no_loss_and_no_gradient():
    soft_labels = random_soft_labels()
    logits = (0.5 * soft_labels + 0.5 / 4).log().requires_grad_()
    loss = loss_of(logits, soft_labels, DIST())
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert logits.grad.abs().max() < 1e-12


def test_a_class_that_is_equally_likely_everywhere_is_left_out():
    soft_labels = torch.cat([0.75 * random_soft_labels(classes=3), torch.full((6, 1), 0.25, dtype=torch.float64)], 1)
    logits = random_logits()
    answers = torch.softmax(logits, dim=1).numpy()
    expected = mean_distance(answers[:, :3].T, soft_labels[:, :3].numpy().T)
    assert loss_of(logits, soft_labels, DIST(inter=0)).item() == pytest.approx(expected)
    # Nor does rounding make it count.
    rounded = soft_labels + torch.tensor([1e-8, -1e-8], dtype=torch.float64).repeat(3).outer(torch.tensor([0, 0, 0, 1]))
    assert loss_of(logits, rounded, DIST(inter=0)).item() == pytest.approx(expected)


def test_a_class_that_the_student_finds_equally_likely_everywhere_is_left_out():
    answers = torch.cat([0.75 * random_soft_labels(classes=3), torch.full((6, 1), 0.25, dtype=torch.float64)], 1)
    soft_labels = random_soft_labels(seed=2)
    expected = mean_distance(answers[:, :3].numpy().T, soft_labels[:, :3].numpy().T)
    assert loss_of(answers.log(), soft_labels, DIST(inter=0)).item() == pytest.approx(expected)


def test_a_uniform_row_is_left_out_of_the_rows():
    logits, soft_labels = random_logits(), random_soft_labels()
    soft_labels[2] = 0.25
    kept = torch.tensor([0, 1, 3, 4, 5])
    expected = loss_of(logits[kept], soft_labels[kept], DIST(intra=0))
    assert loss_of(logits, soft_labels, DIST(intra=0)).item() == pytest.approx(expected.item())


def test_one_sample_has_no_columns_to_learn_from():
    logits = random_logits(rows=1).requires_grad_()
    soft_labels = random_soft_labels(rows=1)
    loss = loss_of(logits, soft_labels, DIST(inter=0))
    loss.backward()
    assert loss == 0
    assert (logits.grad == 0).all()
    both = loss_of(logits, soft_labels, DIST()).item()
    assert both == pytest.approx(mean_distance(torch.softmax(logits, 1).detach().numpy(), soft_labels.numpy()))


def test_where_nothing_varies_there_is_no_loss_and_no_gradient():
    logits = torch.zeros(3, 4, requires_grad=True)
    loss = loss_of(logits, torch.full((3, 4), 0.25), DIST())
    loss.backward()
    assert loss == 0
    assert (logits.grad == 0).all()


def test_soft_labels_of_zero_and_one_give_finite_losses_and_gradients():
    logits = torch.tensor([[200.0, -200.0, 0.0], [-200.0, 200.0, 0.0]], requires_grad=True)
    loss = loss_of(logits, torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), DIST())
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_padding_is_inert_in_loss_and_gradient():
    logits, soft_labels = random_logits(), random_soft_labels()
    kept = logits[MASK].requires_grad_()
    expected = loss_of(kept, soft_labels[MASK], DIST())
    expected.backward()
    padded, target = logits.clone(), soft_labels.clone()
    padded[~MASK], target[~MASK] = 100 * random_logits(2, seed=5), random_soft_labels(2, seed=6)
    padded.requires_grad_()
    loss = loss_of(padded, target, DIST(), MASK)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(padded.grad[MASK], kept.grad, rtol=1e-12, atol=1e-12)
    assert (padded.grad[~MASK] == 0).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_gradient_agrees_with_finite_differences(temperature):
    soft_labels = random_soft_labels()
    objective = DIST(2.0, 3.0, temperature)
    logits = random_logits().requires_grad_()
    assert torch.autograd.gradcheck(lambda given: loss_of(given, soft_labels, objective, MASK), (logits,))


def test_many_clients_at_once_give_what_each_gives_alone_with_the_same_gradients():
    student = torch.stack([random_logits(seed=seed) for seed in (0, 1, 2)]).requires_grad_()
    soft_labels = torch.stack([random_soft_labels(seed=seed) for seed in (3, 4, 5)])
    masks = torch.stack([MASK, torch.arange(6) < 1, torch.zeros(6, dtype=torch.bool)])
    together = torch.vmap(lambda logits, target, mask: loss_of(logits, target, DIST(), mask))(
        student, soft_labels, masks
    )
    alone = torch.stack(
        [
            loss_of(logits, target, DIST(), mask)
            for logits, target, mask in zip(student, soft_labels, masks, strict=True)
        ]
    )
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    assert together[2] == 0
    (gradient,), (expected,) = (torch.autograd.grad(losses.sum(), student) for losses in (together, alone))
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inter": -1.0}, "inter=-1.0 must be finite and not negative"),
        ({"intra": math.inf}, "intra=inf must be finite and not negative"),
        ({"temperature": 0.0}, "temperature=0.0 must be positive and finite"),
        ({"temperature": math.nan}, "temperature=nan must be positive and finite"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DIST(**arguments)


def test_it_judges_batches_and_remembers_nothing():
    assert DIST() == DIST(inter=1, intra=1, temperature=1)
    assert DIST().needs == {"soft_labels"}
    assert not DIST().per_sample
    assert DIST().initial_state() == {}
