import math

import pytest
import torch

from fedfuse.models.outputs import Outputs
from fedfuse.objectives.similarity import SimilarityPreserving

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


def test_both_forms_in_numbers():
    # The soft labels' samples are each alike itself only; the student answers both 1/2 and 1/2: all products are 1/2.
    soft_labels = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    logits = torch.tensor([[0.0, 0.0, -1e3], [0.0, 0.0, -1e3]], dtype=torch.float64)
    # Four differences of 1/2, over two samples or three classes.
    assert loss_of(logits, soft_labels, SimilarityPreserving(samples=1, classes=0)).item() == pytest.approx(1 / 2)
    assert loss_of(logits, soft_labels, SimilarityPreserving(samples=0, classes=1)).item() == pytest.approx(1 / 3)
    assert loss_of(logits, soft_labels, SimilarityPreserving(4, 9)).item() == pytest.approx(4 / 2 + 9 / 3)


def test_loss_sums_over_all_pairs_of_samples_and_of_classes():
    answers, soft_labels = random_soft_labels(seed=0), random_soft_labels()
    samples = sum((answers[i] @ answers[j] - soft_labels[i] @ soft_labels[j]) ** 2 for i in range(6) for j in range(6))
    classes = sum(
        (answers[:, c] @ answers[:, d] - soft_labels[:, c] @ soft_labels[:, d]) ** 2 for c in range(4) for d in range(4)
    )
    loss = loss_of(random_logits(), soft_labels, SimilarityPreserving(0.5, 2.0))
    assert loss.item() == pytest.approx((0.5 * samples / 6 + 2 * classes / 4).item())


def test_the_form_of_samples_does_not_know_the_classes_apart_nor_that_of_classes_the_samples():
    logits, soft_labels = random_logits(), random_soft_labels()
    for objective, renamed in (
        (SimilarityPreserving(classes=0), soft_labels[:, [2, 0, 3, 1]]),
        (SimilarityPreserving(samples=0), soft_labels[[5, 3, 1, 0, 2, 4]]),
    ):
        expected = loss_of(logits, soft_labels, objective).item()
        assert loss_of(logits, renamed, objective).item() == pytest.approx(expected)


def test_a_student_that_agrees_has_no_loss_and_no_gradient():
    logits = random_logits().requires_grad_()
    loss = loss_of(logits, torch.softmax(logits.detach() - 7, dim=1), SimilarityPreserving())
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert logits.grad.abs().max() < 1e-12


def test_padding_is_inert_in_loss_and_gradient():
    logits, soft_labels = random_logits(), random_soft_labels()
    kept = logits[MASK].requires_grad_()
    expected = loss_of(kept, soft_labels[MASK], SimilarityPreserving())
    expected.backward()
    padded, target = logits.clone(), soft_labels.clone()
    padded[~MASK], target[~MASK] = 100 * random_logits(2, seed=5), random_soft_labels(2, seed=6)
    padded.requires_grad_()
    loss = loss_of(padded, target, SimilarityPreserving(), MASK)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(padded.grad[MASK], kept.grad, rtol=1e-12, atol=1e-12)
    assert (padded.grad[~MASK] == 0).all()


@pytest.mark.parametrize("mask", [torch.ones(6, dtype=torch.bool), MASK])
def test_gradient_agrees_with_finite_differences(mask):
    soft_labels = random_soft_labels()
    logits = random_logits().requires_grad_()
    objective = SimilarityPreserving(0.5, 2.0)
    assert torch.autograd.gradcheck(lambda given: loss_of(given, soft_labels, objective, mask), (logits,))


def test_one_sample_is_compared_with_itself():
    soft_labels = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    logits = torch.zeros(1, 2, dtype=torch.float64)
    assert loss_of(logits, soft_labels, SimilarityPreserving(samples=1, classes=0)).item() == pytest.approx(
        (0.5 - 1) ** 2
    )


def test_many_clients_at_once_give_what_each_gives_alone_with_the_same_gradients():
    student = torch.stack([random_logits(seed=seed) for seed in (0, 1, 2)]).requires_grad_()
    soft_labels = torch.stack([random_soft_labels(seed=seed) for seed in (3, 4, 5)])
    masks = torch.stack([MASK, torch.arange(6) < 1, torch.zeros(6, dtype=torch.bool)])
    objective = SimilarityPreserving()
    together = torch.vmap(lambda logits, target, mask: loss_of(logits, target, objective, mask))(
        student, soft_labels, masks
    )
    alone = torch.stack(
        [
            loss_of(logits, target, objective, mask)
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
        ({"samples": -1.0}, "samples=-1.0 must be finite and not negative"),
        ({"classes": math.nan}, "classes=nan must be finite and not negative"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SimilarityPreserving(**arguments)


def test_it_judges_batches_and_remembers_nothing():
    assert SimilarityPreserving() == SimilarityPreserving(samples=0.1, classes=0.01)
    assert SimilarityPreserving().needs == {"soft_labels"}
    assert not SimilarityPreserving().per_sample
    assert SimilarityPreserving().initial_state() == {}
