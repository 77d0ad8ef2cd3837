import math

import pytest
import torch

from fedfuse.client.fit import FitJob, Term, batch_plan, loss_of_step
from fedfuse.client.state import ClientState
from fedfuse.client.teach import teach, transfer_stream
from fedfuse.configuration import OptimizerSettings
from fedfuse.engine import sequential, stacked
from fedfuse.models.outputs import Outputs
from fedfuse.objectives.class_relation import ClassRelation
from fedfuse.objectives.kd import KD

BATCH, CLASSES = 6, 4
EVERY = torch.ones(BATCH, dtype=torch.bool)
SOME = torch.tensor([True, False, True, True, False, False])
KNOWN = torch.tensor([True, False, True, False])


def random(*shape, seed=0):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def probabilities(*shape, seed=0):
    return torch.softmax(random(*shape, seed=seed), dim=-1)


def make_batch(known=KNOWN, seed=0):
    return {
        "inputs": random(BATCH, 2),
        "soft_labels": probabilities(BATCH, CLASSES, seed=seed + 1),
        "own_soft_labels": probabilities(BATCH, CLASSES, seed=seed + 2),
        "known_classes": known,
    }


def losses_of(objective, logits, batch, mask=None):
    outputs = Outputs(logits, torch.full((len(logits), 2), math.nan))
    mask = torch.ones(len(logits), dtype=torch.bool) if mask is None else mask
    losses, state = objective(outputs, batch, mask, {})
    assert state == {}
    return losses


def kept_of(logits, batch, temperature=1.0, mask=None):
    """What the loss adds to that of KD, times a factor of 1."""
    return losses_of(ClassRelation(temperature, 1.0), logits, batch, mask) - losses_of(KD(temperature), logits, batch)


def test_loss_in_numbers():
    # Of the classes 0 and 2 the client answered 0.6 and 0.2, so 3/4 and 1/4; the student answers one half each.
    # The other sample has half the mass on them, so the mean is 0.6 and the factors are 4/3 and 2/3.
    logits = torch.zeros(2, 4, dtype=torch.float64)
    own = torch.tensor([[0.6, 0.1, 0.2, 0.1], [0.1, 0.3, 0.3, 0.3]], dtype=torch.float64)
    soft_labels = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0, 0]], dtype=torch.float64)
    batch = {"soft_labels": soft_labels, "own_soft_labels": own, "known_classes": KNOWN}
    kept = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    losses = losses_of(ClassRelation(1.0, 0.3), logits, batch)
    expected = [0.3 * 4 / 3 * kept, math.log(2) + 0.3 * 2 / 3 * kept]
    assert losses.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_what_is_kept_is_the_squared_temperature_times_the_divergence_among_known_classes(temperature):
    logits, batch = random(BATCH, CLASSES), make_batch()
    mine, own = logits[:, KNOWN], batch["own_soft_labels"][:, KNOWN]
    mass = own.sum(1)
    # Renormalising first changes nothing.
    loss = KD(temperature)(Outputs(mine, mine), {"soft_labels": own / mass.unsqueeze(1)}, EVERY, {})[0]
    torch.testing.assert_close(kept_of(logits, batch, temperature), mass / mass.mean() * loss, rtol=1e-9, atol=1e-12)


def test_weight_multiplies_what_is_kept_and_without_it_the_loss_is_that_of_kd():
    logits, batch = random(BATCH, CLASSES), make_batch()
    losses = [losses_of(ClassRelation(2.0, weight), logits, batch) for weight in (0, 1, 3)]
    torch.testing.assert_close(losses[0], losses_of(KD(2.0), logits, batch), rtol=1e-12, atol=0)
    torch.testing.assert_close(losses[2] - losses[0], 3 * (losses[1] - losses[0]), rtol=1e-9, atol=0)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_with_all_classes_known_the_own_answer_is_kept_as_a_second_soft_label(temperature):
    logits, batch = random(BATCH, CLASSES), make_batch(known=torch.ones(CLASSES, dtype=torch.bool))
    expected = losses_of(KD(temperature), logits, {"soft_labels": batch["own_soft_labels"]})
    torch.testing.assert_close(kept_of(logits, batch, temperature), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("known", [[2], []])
def test_with_one_class_known_or_none_there_is_nothing_to_keep(known):
    classes = torch.zeros(CLASSES, dtype=torch.bool)
    classes[known] = True
    logits, batch = random(BATCH, CLASSES).requires_grad_(), make_batch(known=classes)
    kept = kept_of(logits, batch)
    (gradient,) = torch.autograd.grad(kept.sum(), logits)
    assert kept.abs().max() < 1e-14
    assert gradient.abs().max() < 1e-14


def test_what_the_student_answers_on_unknown_classes_is_no_matter_of_what_is_kept():
    logits, batch = random(BATCH, CLASSES), make_batch()
    other = logits + torch.where(KNOWN, 1.5, random(BATCH, CLASSES, seed=9))
    torch.testing.assert_close(kept_of(other, batch), kept_of(logits, batch), rtol=1e-9, atol=1e-12)
    own = batch["own_soft_labels"]
    agreeing = torch.where(KNOWN, own.log() + 3, other)
    assert kept_of(agreeing, batch).abs().max() < 1e-12


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("known", [KNOWN, torch.zeros(CLASSES, dtype=torch.bool)])
def test_gradient_agrees_with_finite_differences(temperature, known):
    batch, objective = make_batch(known), ClassRelation(temperature, 0.7)
    logits = random(BATCH, CLASSES).requires_grad_()
    assert torch.autograd.gradcheck(lambda given: losses_of(objective, given, batch), (logits,))


def test_answers_of_zero_and_one_give_finite_losses_and_gradients():
    hard = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 3, 1, 1]), CLASSES).float()
    for known in (KNOWN, ~KNOWN, KNOWN & ~KNOWN):
        logits = (200 * hard.flip(0) - 100).requires_grad_()
        batch = {"soft_labels": hard, "own_soft_labels": hard, "known_classes": known}
        losses = losses_of(ClassRelation(2.0, 1.0), logits, batch)
        losses.sum().backward()
        assert torch.isfinite(losses).all()
        assert torch.isfinite(logits.grad).all()


def step_of(logits, batch, mask):
    leaf = logits.clone().requires_grad_()
    outputs, terms = Outputs(leaf, leaf), [Term("only", ClassRelation(2.0, 0.7))]
    loss, _ = loss_of_step(lambda inputs: outputs, None, terms, {"only": batch}, {"only": mask}, {})
    loss.backward()
    return loss.detach(), leaf.grad


def test_padding_enters_neither_the_loss_nor_the_mean_mass():
    logits, batch = random(BATCH, CLASSES), make_batch()
    loss, gradient = step_of(logits, batch, SOME)
    smaller = {name: tensor[SOME] if len(tensor) == BATCH else tensor for name, tensor in batch.items()}
    expected, expected_gradient = step_of(logits[SOME], smaller, EVERY[:3])
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient[SOME], expected_gradient, rtol=1e-12, atol=1e-15)
    assert (gradient[~SOME] == 0).all()


def test_a_single_sample_counts_fully_and_a_batch_of_padding_nothing():
    logits, batch = random(BATCH, CLASSES), make_batch()
    one = {name: tensor[:1] if len(tensor) == BATCH else tensor for name, tensor in batch.items()}
    own = one["own_soft_labels"][:, KNOWN]
    expected = KD()(Outputs(logits[:1, KNOWN], own), {"soft_labels": own}, EVERY[:1], {})[0]
    torch.testing.assert_close(kept_of(logits[:1], one), expected, rtol=1e-9, atol=1e-12)
    loss, gradient = step_of(logits, batch, ~EVERY)
    assert loss == 0
    assert (gradient == 0).all()


def test_many_clients_at_once_give_what_each_gives_alone():
    logits, masks = random(2, BATCH, CLASSES), torch.stack([EVERY, SOME])
    batches = [make_batch(), make_batch(known=torch.tensor([False, True, True, True]), seed=50)]
    alone = [losses_of(ClassRelation(), *own) for own in zip(logits, batches, masks, strict=True)]
    together = torch.vmap(lambda *own: losses_of(ClassRelation(), *own))(
        logits, {name: torch.stack([batch[name] for batch in batches]) for name in batches[0]}, masks
    )
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-12, atol=1e-15)


def test_clients_with_other_known_classes_learn_from_what_they_answered_alike_in_both_runners(
    make_clients, make_settings
):
    objective = ClassRelation(weight=5.0)
    clients, settings = make_clients(("small",)), make_settings(objective=objective)
    architecture, rows = clients[0].architecture, torch.arange(10)
    states = [ClientState(architecture.initial_parameters(seed, torch.float64)) for seed in range(len(clients))]
    fused = [(probabilities(10, 3, seed=seed), rows) for seed in range(len(clients))]
    lessons, jobs = teach(clients, states, fused, "absorb", [1] * len(clients), settings), []
    for client, state, taught in zip(clients, states, lessons, strict=True):
        plan = batch_plan(rows.repeat(2, 1), 4)
        stream = transfer_stream(client, state, taught, plan, None, settings)
        assert stream.constants["known_classes"].tolist() == [number in client.data.train.labels for number in range(3)]
        model = architecture.module().double()
        model.load_state_dict(state.parameters)
        expected = torch.softmax(model(settings.transfer.inputs).logits, dim=1)
        torch.testing.assert_close(stream.tensors["own_soft_labels"], expected, rtol=1e-9, atol=0)
        terms = (Term("transfer", objective),)
        jobs.append(FitJob(architecture, state.parameters, {"transfer": stream}, terms, OptimizerSettings(lr=0.1)))
    for one, other, job in zip(sequential.fit(jobs), stacked.fit(jobs), jobs, strict=True):
        for name, tensor in one.parameters.items():
            torch.testing.assert_close(other.parameters[name], tensor, rtol=0, atol=1e-10)
            assert not torch.equal(tensor, job.parameters[name])


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match=f"temperature={temperature} must be positive and finite"):
        ClassRelation(temperature=temperature)


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_a_weight_that_is_negative_is_refused(weight):
    with pytest.raises(ValueError, match=f"weight={weight} must be finite and not negative"):
        ClassRelation(weight=weight)


def test_own_answers_and_known_classes_are_needed_and_nothing_is_remembered():
    assert ClassRelation() == ClassRelation(temperature=1.0, weight=0.1)
    assert ClassRelation().needs == {"soft_labels", "own_soft_labels", "known_classes"}
    assert ClassRelation().per_sample
    assert ClassRelation().initial_state() == {}
