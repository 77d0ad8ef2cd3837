import math

import pytest
import torch
from torch.nn import functional

from fedfuse.client.fit import (
    FitJob,
    Stream,
    Term,
    batch_plan,
    initial_objective_state,
    loss_of_step,
    make_optimizer,
)
from fedfuse.configuration import OptimizerSettings
from fedfuse.models.outputs import Outputs
from fedfuse.objectives.cross_entropy import CrossEntropy
from fedfuse.objectives.kd import KD


class PerSample:
    """A loss that is computed by a function of the logits and the batch."""

    needs = frozenset()

    def __init__(self, losses):
        self.losses = losses

    def initial_state(self):
        return {}

    def __call__(self, outputs, batch, mask, state):
        return self.losses(outputs.logits, batch), state


class Counter:
    """A loss that counts its steps, and scales with their number."""

    needs = frozenset()

    def __init__(self, start=0.0):
        self.start = start

    def initial_state(self):
        return {"steps": torch.tensor(self.start), "unused": torch.zeros(2)}

    def __call__(self, outputs, batch, mask, state):
        return outputs.logits.sum(1) * state["steps"], {**state, "steps": state["steps"] + 1}


def linear(weight):
    return lambda inputs: Outputs(inputs @ weight, inputs)


def step(terms, weight, batches, masks, state=None):
    return loss_of_step(linear(weight), lambda features: features @ weight, terms, batches, masks, state or {})


# -- batch_plan --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "batch_size", "plan"),
    [
        ([[2, 0, 1]], 2, [[2, 0], [1, -1]]),
        ([[2, 0, 1, 3]], 2, [[2, 0], [1, 3]]),
        ([[2, 0, 1], [1, 2, 0]], 2, [[2, 0], [1, -1], [1, 2], [0, -1]]),
        ([[1, 0]], 5, [[1, 0, -1, -1, -1]]),
        ([[7, 4, 9]], 1, [[7], [4], [9]]),
    ],
)
def test_an_order_is_cut_into_batches_and_the_last_of_each_epoch_is_padded(order, batch_size, plan):
    cut = batch_plan(torch.tensor(order), batch_size)
    assert cut.tolist() == plan
    assert cut.dtype == torch.int64


@pytest.mark.parametrize("epochs", [1, 3])
def test_without_samples_there_is_no_batch(epochs):
    assert batch_plan(torch.empty(epochs, 0, dtype=torch.int64), 4).shape == (0, 4)


@pytest.mark.parametrize("number", [1, 5, 16, 17, 40])
@pytest.mark.parametrize("batch_size", [1, 4, 16, 64])
def test_every_epoch_has_every_sample_exactly_once_in_its_order(number, batch_size):
    order = torch.stack([torch.randperm(number) for _ in range(3)])
    plan = batch_plan(order, batch_size)
    batches = math.ceil(number / batch_size)
    assert plan.shape == (3 * batches, batch_size)
    for epoch, own in zip(plan.reshape(3, -1), order, strict=True):
        assert epoch[:number].tolist() == own.tolist()
        assert (epoch[number:] == -1).all()


# -- loss_of_step ------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_the_samples_that_are_no_padding():
    weight = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    inputs, labels = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 1, 0])
    mask = torch.tensor([True, True, True, False, False])
    batch = {"inputs": inputs, "labels": labels}
    loss, _ = step([Term("private", CrossEntropy())], weight, {"private": batch}, {"private": mask})
    expected = functional.cross_entropy(inputs[:3] @ weight, labels[:3])
    torch.testing.assert_close(loss, expected)
    assert loss.ndim == 0
    torch.testing.assert_close(torch.autograd.grad(loss, weight), torch.autograd.grad(expected, weight))


def test_where_batches_are_known_to_be_full_the_mean_is_over_all_and_no_mask_is_looked_at():
    weight = torch.randn(4, 3, dtype=torch.float64)
    batch = {"inputs": torch.randn(5, 4, dtype=torch.float64), "weights": torch.tensor([1.0, 2, 0, 4, 0.5])}
    terms, batches = [Term("private", PerSample(lambda logits, batch: logits.square().sum(1)))], {"private": batch}
    full, unlooked_at = (torch.full((5,), value) for value in (True, False))
    found, masked = (
        loss_of_step(linear(weight), None, terms, batches, {"private": mask}, {}, is_full=is_full)[0]
        for mask, is_full in ((unlooked_at, True), (full, False))
    )
    torch.testing.assert_close(found, masked, rtol=1e-14, atol=0)
    expected = ((batch["inputs"] @ weight).square().sum(1) * batch["weights"]).sum() / 5
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


def test_a_batch_of_padding_alone_has_no_loss_and_no_gradient():
    weight = torch.ones(2, 2, requires_grad=True)
    batch = {"inputs": torch.ones(3, 2), "labels": torch.zeros(3, dtype=torch.int64)}
    loss, _ = step(
        [Term("private", CrossEntropy())], weight, {"private": batch}, {"private": torch.zeros(3, dtype=torch.bool)}
    )
    assert loss.item() == 0
    assert torch.autograd.grad(loss, weight)[0].tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_padding_whose_loss_is_no_number_stays_out_of_the_loss_and_the_gradient(value):
    weight = torch.tensor([[2.0, 3.0]], requires_grad=True)
    batch = {"inputs": torch.tensor([[1.0], [4.0]]), "offset": torch.tensor([10.0, value])}
    term = Term("private", PerSample(lambda logits, batch: logits.sum(1) + batch["offset"]))
    loss, _ = step([term], weight, {"private": batch}, {"private": torch.tensor([True, False])})
    assert loss.item() == 2 + 3 + 10
    assert torch.autograd.grad(loss, weight)[0].tolist() == [[1, 1]]


def test_a_scalar_loss_is_taken_as_it_is():
    term = Term("private", PerSample(lambda logits, batch: logits.sum()))
    mask = torch.tensor([True, False])
    loss, _ = step(
        [term], torch.eye(2), {"private": {"inputs": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}}, {"private": mask}
    )
    assert loss.item() == 10


def test_terms_are_weighted_and_each_sees_its_own_stream_and_mask():
    sums = PerSample(lambda logits, batch: logits.sum(1))
    terms = [Term("private", sums, weight=3.0), Term("transfer", sums, weight=0.5), Term("private", sums, weight=-2.0)]
    batches = {
        "private": {"inputs": torch.tensor([[1.0, 0.0], [5.0, 0.0]])},
        "transfer": {"inputs": torch.tensor([[0.0, 8.0], [0.0, 4.0], [0.0, 99.0]])},
    }
    masks = {"private": torch.tensor([True, False]), "transfer": torch.tensor([True, True, False])}
    loss, _ = step(terms, torch.eye(2), batches, masks)
    assert loss.item() == 3 * 1 + 0.5 * 6 - 2 * 1


def test_the_model_runs_once_for_each_stream_however_many_terms_use_it():
    calls = []

    def forward(inputs):
        calls.append(len(inputs))
        return Outputs(inputs, inputs)

    batch = {
        "inputs": torch.randn(3, 2),
        "labels": torch.tensor([0, 1, 1]),
        "soft_labels": torch.full((3, 2), 0.5),
    }
    terms = [Term("private", CrossEntropy()), Term("private", KD())]
    loss_of_step(forward, None, terms, {"private": batch}, {"private": torch.ones(3, dtype=torch.bool)}, {})
    assert calls == [3]


def test_features_enter_at_the_head_beside_inputs_that_go_through_the_whole_model():
    seen = []

    def keep(outputs, batch):
        seen.append(outputs)
        return outputs.sum(1)

    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    terms = [Term("private", PerSample(keep)), Term("head", PerSample(keep), weight=10.0)]
    batches = {"private": {"inputs": torch.tensor([[1.0, 0.0]])}, "head": {"features": torch.tensor([[0.0, 1.0]])}}
    masks = dict.fromkeys(batches, torch.tensor([True]))

    def forward(inputs):
        return Outputs(-inputs, inputs)

    loss, _ = loss_of_step(forward, lambda features: features @ weight, terms, batches, masks, {})
    assert [logits.tolist() for logits in seen] == [[[-1, 0]], [[3, 4]]]
    assert loss.item() == -1 + 10 * 7


def test_an_objective_at_the_head_sees_the_features_that_entered():
    class Features(PerSample):
        def __call__(self, outputs, batch, mask, state):
            return outputs.features.sum(1), state

    batch = {"features": torch.tensor([[5.0, 6.0]])}
    mask = {"head": torch.tensor([True])}
    loss, _ = step([Term("head", Features(None))], torch.eye(2), {"head": batch}, mask)
    assert loss.item() == 11


def test_each_term_has_a_state_of_its_own_under_its_stream_and_number():
    terms = [Term("private", CrossEntropy()), *(Term("private", Counter(start)) for start in range(10))]
    batch = {"inputs": torch.tensor([[1.0, 0.0]]), "labels": torch.tensor([0])}
    state = initial_objective_state(terms)
    assert sorted(state) == sorted(
        f"private.{number}.{name}" for number in range(1, 11) for name in ("steps", "unused")
    )
    assert [state[f"private.{number}.steps"].item() for number in range(1, 11)] == list(range(10))
    loss, after = step(terms, torch.eye(2), {"private": batch}, {"private": torch.tensor([True])}, state)
    assert sorted(after) == sorted(state)
    assert [after[f"private.{number}.steps"].item() for number in range(1, 11)] == list(range(1, 11))
    cross_entropy = functional.cross_entropy(batch["inputs"], batch["labels"])
    torch.testing.assert_close(loss, cross_entropy + sum(range(10)))


def test_the_next_state_carries_no_gradient():
    class Remembers(Counter):
        def __call__(self, outputs, batch, mask, state):
            return outputs.logits.sum(1), {"logits": outputs.logits.sum()}

    weight = torch.eye(2, requires_grad=True)
    batch = {"inputs": torch.ones(1, 2)}
    loss, state = step([Term("private", Remembers())], weight, {"private": batch}, {"private": torch.tensor([True])})
    assert loss.requires_grad
    assert not state["private.0.logits"].requires_grad
    assert state["private.0.logits"].item() == 2


# -- jobs and optimisers -----------------------------------------------------------------------------------------------


def test_a_job_has_as_many_steps_as_its_longest_plan(architectures):
    def streams(*lengths):
        return {str(length): Stream({}, torch.zeros(length, 2, dtype=torch.int64)) for length in lengths}

    def job(*lengths):
        return FitJob(architectures["small"], {}, streams(*lengths), (), OptimizerSettings())

    assert job(3).num_steps == 3
    assert job(0).num_steps == 0
    assert job(2, 4).num_steps == 4


@pytest.mark.parametrize(
    ("settings", "first", "second"),
    [
        (OptimizerSettings("sgd", lr=0.1, momentum=0.0), 0.8, 0.6),
        (OptimizerSettings("sgd", lr=0.1, momentum=0.5), 0.8, 0.5),
        (OptimizerSettings("sgd", lr=0.1, momentum=0.0, weight_decay=0.5), 0.75, 0.5125),
        (OptimizerSettings("adam", lr=0.1), 0.9, 0.8),
        # gradients 2.5 and 2.45: m = 0.47 / 0.19, v = 0.01224625 / 0.001999
        (OptimizerSettings("adam", lr=0.1, weight_decay=0.5), 0.9, 0.9 - 0.1 * 0.47 / 0.19 / math.sqrt(6.12618809)),
        (OptimizerSettings("adamw", lr=0.1, weight_decay=0.5), 0.85, 0.7075),
        # v = 0.04, then 0.99 * 0.04 + 0.04; each step is lr * 2 / sqrt(v)
        (OptimizerSettings("rmsprop", lr=0.1, momentum=0.0), 0.0, -0.2 / math.sqrt(0.0796)),
        (OptimizerSettings("rmsprop", lr=0.1, momentum=0.5), 0.0, -0.5 - 0.2 / math.sqrt(0.0796)),
    ],
)
def test_each_optimiser_moves_one_under_a_gradient_of_two_as_its_formula_says(settings, first, second):
    parameter = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = make_optimizer(settings, [parameter])
    values = []
    for _ in range(2):
        parameter.grad = torch.full((1,), 2.0, dtype=torch.float64)
        optimizer.step()
        values.append(parameter.item())
    assert values == pytest.approx([first, second], abs=1e-6)


def test_adam_decays_weights_through_the_gradient_and_adamw_directly():
    def after_one_step(name):
        parameter = torch.tensor([1.0, 1.0], dtype=torch.float64, requires_grad=True)
        parameter.grad = torch.zeros(2, dtype=torch.float64)
        make_optimizer(OptimizerSettings(name, lr=0.1, weight_decay=0.01), [parameter]).step()
        return parameter.tolist()

    assert after_one_step("adam") == pytest.approx([0.9, 0.9], abs=1e-5)
    assert after_one_step("adamw") == pytest.approx([0.999, 0.999])
