import math

import pytest
import torch

from fedfuse.components import build
from fedfuse.composition import compose
from fedfuse.errors import ConfigurationError
from fedfuse.models.outputs import Outputs
from fedfuse.objectives.cross_entropy import CrossEntropy
from fedfuse.objectives.dist import DIST
from fedfuse.objectives.dkd import DKD
from fedfuse.objectives.kd import KD
from fedfuse.objectives.standardised import SMALLEST_DEVIATION, Standardised

INNER = [KD(2.0), DKD(), DIST()]


def random_logits(rows=6, classes=5, seed=0):
    return 3 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_soft_labels(rows=6, classes=5, seed=1):
    return torch.softmax(random_logits(rows, classes, seed), dim=1)


def loss_of(logits, soft_labels, objective, mask=None):
    outputs = Outputs(logits, torch.full((len(logits), 2), math.nan))
    mask = torch.ones(len(logits), dtype=torch.bool) if mask is None else mask
    loss, state = objective(outputs, {"soft_labels": soft_labels}, mask, {})
    assert state == {}
    return loss


class Spy:
    """A loss that remembers how often it was called, and shows what it was given."""

    needs = frozenset({"soft_labels", "known_classes"})
    per_sample = False

    def initial_state(self):
        return {"calls": torch.tensor(3)}

    def __call__(self, outputs, batch, mask, state):
        self.given = outputs, batch, mask
        return outputs.logits.sum(), {"calls": state["calls"] + 1}


def test_logits_and_soft_labels_are_standardised_in_numbers():
    spy = Spy()
    # The mean is 3 and the squared deviations are 4, 1, 0, 1 and 4: the unbiased variance is 10 / 4.
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]], dtype=torch.float64)
    expected = torch.tensor([[-2.0, -1.0, 0.0, 1.0, 2.0]], dtype=torch.float64) / math.sqrt(2.5)
    soft_labels = torch.softmax(7 * logits.flip(1), dim=1).clamp_min(1e-12)
    outputs = Outputs(logits, torch.ones(1, 2), torch.zeros(1, 5))
    batch = {"soft_labels": soft_labels, "own_soft_labels": torch.softmax(logits, 1), "known_classes": torch.ones(5)}
    Standardised(spy)(outputs, batch, torch.tensor([True]), spy.initial_state())
    given_outputs, given_batch, given_mask = spy.given
    torch.testing.assert_close(given_outputs.logits, expected)
    assert given_outputs.features is outputs.features
    assert given_outputs.fused_logits is outputs.fused_logits
    torch.testing.assert_close(given_batch["own_soft_labels"], torch.softmax(expected, dim=1))
    assert given_batch["known_classes"] is batch["known_classes"]
    assert given_batch["soft_labels"].sum().item() == pytest.approx(1)
    assert given_mask.tolist() == [True]
    assert batch["soft_labels"] is soft_labels


@pytest.mark.parametrize("inner", INNER)
def test_loss_is_that_of_the_standardised_logits(inner):
    student, teacher = random_logits(), random_logits(seed=1)
    standardised = [(side - side.mean(1, keepdim=True)) / side.std(1, keepdim=True) for side in (student, teacher)]
    expected = loss_of(standardised[0], torch.softmax(standardised[1], dim=1), inner)
    loss = loss_of(student, torch.softmax(teacher, dim=1), Standardised(inner))
    torch.testing.assert_close(loss, expected, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("inner", INNER)
def test_scale_and_shift_of_either_side_change_nothing(inner):
    student, teacher = random_logits(), random_logits(seed=1)
    expected = loss_of(student, torch.softmax(teacher, dim=1), Standardised(inner))
    scales = torch.tensor([[0.1], [0.3], [0.5], [0.7], [0.9], [1.1]], dtype=torch.float64)
    changed = loss_of(40 * student - 7, torch.softmax(scales * teacher + 5, dim=1), Standardised(inner))
    torch.testing.assert_close(changed, expected, rtol=1e-7, atol=1e-12)
    assert not torch.allclose(loss_of(student, torch.softmax(scales * teacher, dim=1), inner), expected)


def test_logits_and_log_probabilities_give_the_same():
    student, soft_labels = random_logits(), random_soft_labels()
    loss = loss_of(student, soft_labels, Standardised(KD()))
    torch.testing.assert_close(loss, loss_of(student.log_softmax(1), soft_labels, Standardised(KD())))


def test_at_temperature_one_only_the_deviation_matters():
    # The form in which mixup is distilled (Choi et al., WACV 2023): both sides divided by their deviation alone.
    student, teacher = random_logits(), random_logits(seed=1)
    target = torch.softmax(teacher / teacher.std(1, keepdim=True), dim=1)
    expected = loss_of(student / student.std(1, keepdim=True), target, KD())
    loss = loss_of(student, torch.softmax(teacher, dim=1), Standardised(KD()))
    torch.testing.assert_close(loss, expected, rtol=1e-7, atol=1e-12)


def test_with_two_classes_only_the_likelier_one_is_left():
    losses = loss_of(
        torch.tensor([[0.0, 1.0], [3.0, -3.0]], dtype=torch.float64),
        torch.tensor([[0.4, 0.6], [0.01, 0.99]], dtype=torch.float64),
        Standardised(KD()),
    )
    # Both sides are at +-1 / sqrt(2), so the answer that is likelier is so by a factor of exp(sqrt(2)).
    likelier = 1 / (1 + math.exp(-math.sqrt(2)))
    assert losses.tolist() == pytest.approx([0, (2 * likelier - 1) * math.sqrt(2)])


def test_nearly_uniform_soft_labels_stay_so():
    noise = torch.tensor([[1e-7, -1e-7, 2e-7, 0.0]], dtype=torch.float64)
    logits = random_logits(1, 4)
    expected = loss_of(logits, torch.full((1, 4), 0.25, dtype=torch.float64), Standardised(KD()))
    assert loss_of(logits, 0.25 + noise, Standardised(KD())).item() == pytest.approx(expected.item(), abs=1e-3)


def test_above_the_smallest_deviation_the_full_pattern_counts_and_below_it_its_share():
    spy = Spy()
    pattern = torch.tensor([[-1.0, 0.0, 1.0]], dtype=torch.float64)  # of deviation 1
    for size, expected in ((2.0, 1.0), (1.0, 1.0), (0.5, 0.5), (0.0, 0.0)):
        outputs = Outputs(size * SMALLEST_DEVIATION * pattern, torch.zeros(1, 1))
        Standardised(spy)(outputs, {"soft_labels": random_soft_labels(1, 3)}, torch.tensor([True]), spy.initial_state())
        torch.testing.assert_close(spy.given[0].logits, expected * pattern)


def test_equal_logits_have_a_finite_gradient():
    logits = torch.zeros(2, 4, requires_grad=True)
    loss_of(logits, torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.25] * 4]), Standardised(KD())).sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[0, 1:] > 0).all()
    assert (logits.grad[1] == 0).all()


@pytest.mark.parametrize("inner", INNER)
def test_gradient_agrees_with_finite_differences(inner):
    soft_labels = random_soft_labels(3, 4)
    logits = random_logits(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda given: loss_of(given, soft_labels, Standardised(inner)), (logits,))


@pytest.mark.parametrize("inner", INNER)
def test_many_clients_at_once_give_what_each_gives_alone_with_the_same_gradients(inner):
    student = torch.stack([random_logits(seed=seed) for seed in (0, 1, 2)]).requires_grad_()
    soft_labels = torch.stack([random_soft_labels(seed=seed) for seed in (3, 4, 5)])
    masks = torch.stack([torch.arange(6) < number for number in (6, 4, 1)])
    together = torch.vmap(lambda *given: loss_of(*given[:2], Standardised(inner), given[2]))(
        student, soft_labels, masks
    )
    alone = torch.stack(
        [
            loss_of(logits, target, Standardised(inner), mask)
            for logits, target, mask in zip(student, soft_labels, masks, strict=True)
        ]
    )
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    (gradient,), (expected,) = (torch.autograd.grad(losses.sum(), student) for losses in (together, alone))
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


def test_padding_of_a_loss_on_batches_is_inert():
    mask = torch.tensor([True, True, False, True, True, False])
    logits, soft_labels = random_logits(), random_soft_labels()
    expected = loss_of(logits[mask], soft_labels[mask], Standardised(DIST()))
    torch.testing.assert_close(loss_of(logits, soft_labels, Standardised(DIST()), mask), expected)


def test_what_the_loss_needs_judges_and_remembers_is_passed_on():
    objective = Standardised(Spy())
    assert objective.needs == {"soft_labels", "known_classes"}
    assert not objective.per_sample
    assert Standardised(KD()).per_sample
    assert objective.initial_state() == {"calls": torch.tensor(3)}
    batch, mask = {"soft_labels": random_soft_labels()}, torch.ones(6, dtype=torch.bool)
    _, state = objective(Outputs(random_logits(), torch.zeros(6, 1)), batch, mask, {"calls": torch.tensor(5)})
    assert state == {"calls": torch.tensor(6)}


@pytest.mark.parametrize("loss", [CrossEntropy(), None, "kd"])
def test_a_loss_that_does_not_learn_from_soft_labels_is_refused(loss):
    with pytest.raises(ValueError, match="must be an objective that learns from soft labels"):
        Standardised(loss)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], KD()),
        (["objective.loss=dkd"], DKD()),
        (["objective.loss={name: kd, temperature: 2}"], KD(2.0)),
        (["objective.loss={name: standardised, loss: dist}"], Standardised(DIST())),
    ],
)
def test_the_loss_is_chosen_by_name(overrides, expected):
    component = compose(["objective=standardised", *overrides]).objective
    assert build(component, "objective") == Standardised(expected)


@pytest.mark.parametrize("loss", ["cross_entropy", "null"])
def test_a_name_of_a_loss_that_does_not_fit_is_answered_in_one_line(loss):
    component = compose(["objective=standardised", f"objective.loss={loss}"]).objective
    with pytest.raises(ConfigurationError, match="must be an objective that learns from soft labels"):
        build(component, "objective")
