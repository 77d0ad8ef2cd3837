import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from fedfuse.client.client import first_state
from fedfuse.client.fit import FitResult
from fedfuse.client.learn import DivergedError, learn, train_states
from fedfuse.client.predict import predict
from fedfuse.configuration import OptimizerSettings, TrainingSettings
from fedfuse.engine import sequential, stacked
from fedfuse.objectives.class_logits import ClassLogits
from fedfuse.objectives.cross_entropy import CrossEntropy
from fedfuse.objectives.generated import Generated
from fedfuse.objectives.hyper_knowledge import HyperKnowledge
from fedfuse.objectives.kd import KD
from fedfuse.objectives.prototype import Prototype


class Recorder:
    """A runner that trains nothing and keeps the jobs of each call."""

    def __init__(self, objective_state=None):
        self.calls = []
        self.objective_state = objective_state or {}

    def __call__(self, jobs):
        self.calls.append(list(jobs))
        return [FitResult(job.parameters, self.objective_state) for job in jobs]

    @property
    def jobs(self):
        return [job for call in self.calls for job in call]


def record(clients, settings, round=1, states=None, **recorder):
    runner = Recorder(**recorder)
    states = states or [first_state(client, settings) for client in clients]
    return runner, learn(clients, states, round, settings, runner)


def same(parameters, others):
    return all(torch.equal(tensor, others[name]) for name, tensor in parameters.items())


def with_prototypes(state, value=0.0, mask=(True, True, True), width=5):
    prototypes = torch.full((3, width), value, dtype=torch.float64)
    return replace(state, received={"prototypes": {"prototypes": prototypes, "mask": torch.tensor(mask)}})


def test_every_epoch_visits_all_private_samples_in_an_order_of_its_own(make_clients, make_settings):
    clients, settings = make_clients(("small",)), make_settings()
    runner, _ = record(clients, settings)
    for client, job in zip(clients, runner.jobs, strict=True):
        number = len(client.data.train)
        stream = job.streams["private"]
        assert stream.tensors == {"inputs": client.data.train.inputs, "labels": client.data.train.labels}
        assert stream.plan.shape == (2 * math.ceil(number / 4), 4)
        first, second = stream.plan.reshape(2, -1)
        assert sorted(first[first >= 0].tolist()) == list(range(number))
        assert sorted(second[second >= 0].tolist()) == list(range(number))
        assert number < 5 or first.tolist() != second.tolist()


def test_the_loss_is_cross_entropy_with_the_optimiser_of_learn(make_clients, make_settings):
    optimizer = OptimizerSettings("adamw", lr=0.01)
    settings = make_settings(learn=TrainingSettings(1, 8, optimizer))
    runner, _ = record(make_clients(("small",)), settings)
    for job in runner.jobs:
        assert [(term.stream, term.objective, term.weight) for term in job.terms] == [("private", CrossEntropy(), 1.0)]
        assert job.optimizer == optimizer
        assert job.streams["private"].plan.shape[1] == 8


def test_orders_depend_on_the_seed_the_round_and_the_client_alone(make_clients, make_settings):
    clients, settings = make_clients(("small",), sizes=(40, 40, 40)), make_settings()

    def plans(clients, settings, round):
        runner, _ = record(clients, settings, round)
        return [tuple(job.streams["private"].plan.flatten().tolist()) for job in runner.jobs]

    usual = plans(clients, settings, 1)
    assert len(set(usual)) == 3
    assert plans(clients[::-1], settings, 1) == usual[::-1]
    assert plans(clients[1:2], settings, 1) == usual[1:2]
    assert not set(plans(clients, settings, 2)) & set(usual)
    assert not set(plans(clients, replace(settings, seed=8), 1)) & set(usual)


def test_training_fits_the_private_data(make_clients, make_settings):
    clients = make_clients(("small",), sizes=(40,))
    settings = make_settings(learn=TrainingSettings(20, 8, OptimizerSettings("sgd", lr=0.3, momentum=0.5)))

    def loss(state):
        outputs = predict(clients[0].architecture, [state.parameters], [clients[0].data.train.inputs])[0]
        return functional.cross_entropy(outputs.logits, clients[0].data.train.labels).item()

    before = first_state(clients[0], settings)
    (after,) = learn(clients, [before], 1, settings, sequential.fit)
    assert loss(before) > 0.9
    assert loss(after) < 0.1


def test_only_weights_and_the_memory_of_learn_change(make_clients, make_settings):
    clients, settings = make_clients(("small",))[:2], make_settings()
    before = [
        replace(
            first_state(client, settings),
            objective_state={"absorb": {"0.mean": torch.tensor(1.0)}, "learn": {"0.mean": torch.tensor(2.0)}},
            received={"soft_labels": {"soft_labels": torch.ones(1)}},
            absorbed_round=4,
        )
        for client in clients
    ]
    runner, after = record(clients, settings, 1, before, objective_state={"0.mean": torch.tensor(3.0)})
    for job, old, new in zip(runner.jobs, before, after, strict=True):
        assert job.objective_state == old.objective_state["learn"]
        assert new.objective_state == {"absorb": {"0.mean": torch.tensor(1.0)}, "learn": {"0.mean": torch.tensor(3.0)}}
        assert new.received is old.received
        assert new.absorbed_round == 4


def test_a_client_without_training_samples_stays_as_it_is(make_clients, make_settings):
    clients, settings = make_clients(("small",), sizes=(0, 5)), make_settings()
    before = [first_state(client, settings) for client in clients]
    after = learn(clients, before, 1, settings, sequential.fit)
    assert same(after[0].parameters, before[0].parameters)
    assert not same(after[1].parameters, before[1].parameters)


# -- prototypes --------------------------------------------------------------------------------------------------------


def test_received_prototypes_become_a_term_with_the_objective_of_the_run(make_clients, make_settings):
    clients, objective = make_clients(("small",))[:1], Prototype(weight=0.3)
    settings = make_settings(objective=objective)
    state = with_prototypes(first_state(clients[0], settings), mask=(True, False, True))
    runner, _ = record(clients, settings, states=[state])
    (job,) = runner.jobs
    assert [(term.stream, term.objective) for term in job.terms] == [
        ("private", CrossEntropy()),
        ("private", objective),
    ]
    received = state.received["prototypes"]
    assert job.streams["private"].constants == {
        "prototypes": received["prototypes"],
        "prototype_mask": received["mask"],
    }


def test_prototypes_pull_features_towards_them(make_clients, make_settings):
    clients, settings = make_clients(("small",), sizes=(40,)), make_settings(objective=Prototype(weight=5.0))

    def distance(state):
        outputs = predict(clients[0].architecture, [state.parameters], [clients[0].data.train.inputs])[0]
        return (outputs.features - 1).square().mean().item()

    before = first_state(clients[0], settings)
    (without,) = learn(clients, [before], 1, settings, sequential.fit)
    (pulled,) = learn(clients, [with_prototypes(before, 1.0)], 1, settings, sequential.fit)
    assert distance(pulled) < 0.5 * distance(without)
    (masked,) = learn(clients, [with_prototypes(before, 1.0, (False,) * 3)], 1, settings, sequential.fit)
    assert same(masked.parameters, without.parameters)


@pytest.mark.parametrize("fit", [sequential.fit, stacked.fit])
@pytest.mark.parametrize("receivers", [{0}, {1, 2}, {0, 2}])
def test_clients_with_and_without_prototypes_learn_side_by_side(make_clients, make_settings, fit, receivers):
    clients, settings = make_clients(("small",), sizes=(5, 16, 17)), make_settings(objective=Prototype(weight=2.0))
    states = [first_state(client, settings) for client in clients]
    states = [with_prototypes(state, 1.0) if row in receivers else state for row, state in enumerate(states)]
    together = learn(clients, states, 1, settings, fit)
    for client, state, own in zip(clients, states, together, strict=True):
        (alone,) = learn([client], [state], 1, settings, fit)
        for name, tensor in alone.parameters.items():
            torch.testing.assert_close(own.parameters[name], tensor, rtol=0, atol=1e-12)


def test_jobs_that_run_together_have_the_same_terms(make_clients, make_settings):
    clients, settings = make_clients(("small",), sizes=(5, 5, 5)), make_settings(objective=Prototype())
    states = [first_state(client, settings) for client in clients]
    runner, _ = record(clients, settings, states=[states[0], with_prototypes(states[1]), states[2]])
    assert [[len(job.terms) for job in call] for call in runner.calls] == [[1, 1], [2]]


# -- class logits ------------------------------------------------------------------------------------------------------


def with_class_logits(state, mask=(True, True, True)):
    values = torch.tensor([[0.0, 2, 1], [1, 0, 2], [2, 1, 0]], dtype=torch.float64)
    return replace(state, received={"class_logits": {"class_logits": values, "mask": torch.tensor(mask)}})


def test_received_class_logits_become_a_term_with_the_objective_of_the_run(make_clients, make_settings):
    clients, objective = make_clients(("small",))[:1], ClassLogits(weight=0.3)
    settings = make_settings(objective=objective)
    state = with_class_logits(first_state(clients[0], settings), mask=(True, False, True))
    runner, _ = record(clients, settings, states=[state])
    (job,) = runner.jobs
    assert [term.objective for term in job.terms] == [CrossEntropy(), objective]
    received = state.received["class_logits"]
    assert job.streams["private"].constants == {
        "class_logits": received["class_logits"],
        "class_logits_mask": received["mask"],
    }


@pytest.mark.parametrize("fit", [sequential.fit, stacked.fit])
def test_clients_with_and_without_class_logits_learn_side_by_side(make_clients, make_settings, fit):
    clients, settings = make_clients(("small",), sizes=(5, 16, 17)), make_settings(objective=ClassLogits(weight=2.0))
    first = [first_state(client, settings) for client in clients]
    states = [with_class_logits(first[0]), first[1], with_class_logits(first[2])]
    together = learn(clients, states, 1, settings, fit)
    for client, state, own in zip(clients, states, together, strict=True):
        (alone,) = learn([client], [state], 1, settings, fit)
        for name, tensor in alone.parameters.items():
            torch.testing.assert_close(own.parameters[name], tensor, rtol=0, atol=1e-12)
    (without,) = learn(clients[:1], first[:1], 1, settings, fit)
    (masked,) = learn(clients[:1], [with_class_logits(first[0], (False,) * 3)], 1, settings, fit)
    assert same(masked.parameters, without.parameters)
    assert not same(together[0].parameters, without.parameters)


def test_clients_that_received_different_knowledge_run_apart(make_clients, make_settings):
    clients, settings = make_clients(("small",), sizes=(5, 5, 5)), make_settings()
    first = [first_state(client, settings) for client in clients]
    runner, _ = record(clients, settings, states=[with_prototypes(first[0]), first[1], with_class_logits(first[2])])
    constants = [[set(job.streams["private"].constants) for job in call] for call in runner.calls]
    assert constants == [[set()], [{"class_logits", "class_logits_mask"}], [{"prototypes", "prototype_mask"}]]


# -- the head ----------------------------------------------------------------------------------------------------------


def with_hyper_knowledge(state, mask=(True, False, True)):
    prototypes = torch.arange(15, dtype=torch.float64).reshape(3, 5) / 10
    known = torch.tensor(mask)
    received = {
        "prototypes": {"prototypes": prototypes, "mask": known},
        "class_logits": {"class_logits": torch.eye(3, dtype=torch.float64), "mask": known},
    }
    return replace(state, received=received)


def with_generated(state, number=7):
    features = torch.arange(5.0 * number, dtype=torch.float64).reshape(number, 5) / (5 * number)
    return replace(state, received={"generated": {"features": features, "labels": torch.arange(number) % 3}})


def with_private_soft_labels(state, number):
    soft_labels = torch.tensor([[0.1, 0.2, 0.7]], dtype=torch.float64).repeat(number, 1)
    return replace(state, received={"private_soft_labels": {"soft_labels": soft_labels}})


def test_prototypes_of_known_classes_enter_at_the_head_in_every_step(make_clients, make_settings):
    clients, objective = make_clients(("small",), sizes=(6,)), HyperKnowledge(weight=0.3)
    settings = make_settings(objective=objective)
    state = with_hyper_knowledge(first_state(clients[0], settings))
    runner, _ = record(clients, settings, states=[state])
    (job,) = runner.jobs
    assert [(term.stream, term.objective) for term in job.terms] == [
        ("private", CrossEntropy()),
        ("private", objective),
        ("head", objective.at_head),
    ]
    head = job.streams["head"]
    assert head.plan.tolist() == [[0, 2, -1]] * len(job.streams["private"].plan) == [[0, 2, -1]] * 4
    assert head.tensors["features"] is state.received["prototypes"]["prototypes"]
    assert head.tensors["labels"].tolist() == [0, 1, 2]
    assert set(head.constants) == {"prototypes", "prototype_mask", "class_logits", "class_logits_mask"}


def test_generated_features_are_visited_once_before_any_is_again(make_clients, make_settings):
    clients, objective = make_clients(("small",), sizes=(17, 17)), Generated(weight=0.3)
    settings = make_settings(objective=objective)
    states = [with_generated(first_state(client, settings)) for client in clients]

    def plans(round):
        return [job.streams["head"].plan for job in record(clients, settings, round, states)[0].jobs]

    runner, _ = record(clients, settings, states=states)
    for job, state in zip(runner.jobs, states, strict=True):
        assert [(term.stream, term.objective) for term in job.terms] == [
            ("private", CrossEntropy()),
            ("head", objective),
        ]
        assert job.streams["head"].tensors == state.received["generated"]
        plan = job.streams["head"].plan
        # Two epochs of 17 samples in batches of 4 are 10 steps, so 40 of the generated ones.
        assert plan.shape == (len(job.streams["private"].plan), 4) == (10, 4)
        for visited in plan.flatten().split(7)[:5]:
            assert sorted(visited.tolist()) == list(range(7))
    assert torch.equal(plans(1)[0], plans(1)[0])
    assert not torch.equal(plans(1)[0], plans(1)[1])
    assert not torch.equal(plans(1)[0], plans(2)[0])


def test_soft_labels_of_private_samples_are_learnt_with_the_objective_of_the_run(make_clients, make_settings):
    clients, settings = make_clients(("small",), sizes=(6,)), make_settings(objective=KD(2.0))
    state = with_private_soft_labels(first_state(clients[0], settings), 6)
    (job,) = record(clients, settings, states=[state])[0].jobs
    assert [(term.stream, term.objective) for term in job.terms] == [("private", CrossEntropy()), ("private", KD(2.0))]
    assert job.streams["private"].tensors["soft_labels"] is state.received["private_soft_labels"]["soft_labels"]
    assert set(job.streams) == {"private"}


@pytest.mark.parametrize("fit", [sequential.fit, stacked.fit])
@pytest.mark.parametrize(
    ("objective", "give"),
    [
        (HyperKnowledge(), lambda state, number: with_hyper_knowledge(state)),
        (Generated(), lambda state, number: with_generated(state, 3 + number)),
        (KD(), with_private_soft_labels),
    ],
)
def test_clients_with_and_without_what_enters_learn_side_by_side(make_clients, make_settings, fit, objective, give):
    sizes = (5, 16, 17, 0)
    clients, settings = make_clients(("small",), sizes=sizes), make_settings(objective=objective)
    first = [first_state(client, settings) for client in clients]
    states = [give(first[0], 5), first[1], give(first[2], 17), give(first[3], 0)]
    together = learn(clients, states, 1, settings, fit)
    for client, state, own in zip(clients, states, together, strict=True):
        (alone,) = learn([client], [state], 1, settings, sequential.fit)
        for name, tensor in alone.parameters.items():
            torch.testing.assert_close(own.parameters[name], tensor, rtol=0, atol=1e-12)
    without = learn(clients, first, 1, settings, fit)
    changed = [not same(own.parameters, other.parameters) for own, other in zip(together, without, strict=True)]
    assert changed == [True, False, True, False]


@pytest.mark.parametrize("fit", [sequential.fit, stacked.fit])
def test_hyper_knowledge_of_no_class_changes_nothing(make_clients, make_settings, fit):
    clients, settings = make_clients(("small",), sizes=(9,)), make_settings(objective=HyperKnowledge())
    state = first_state(clients[0], settings)
    (without,) = learn(clients, [state], 1, settings, fit)
    (masked,) = learn(clients, [with_hyper_knowledge(state, (False,) * 3)], 1, settings, fit)
    assert same(masked.parameters, without.parameters)


# -- divergence --------------------------------------------------------------------------------------------------------


def test_weights_that_are_not_finite_are_an_error_that_names_the_verb(make_clients, make_settings):
    clients = make_clients(("small",))
    settings = make_settings(learn=TrainingSettings(2, 4, OptimizerSettings("sgd", lr=1e300)))
    states = [first_state(client, settings) for client in clients]
    with pytest.raises(DivergedError, match=r"^weights are not finite after learn$"):
        learn(clients, states, 1, settings, sequential.fit)


def test_one_bad_result_is_enough_and_results_go_to_their_own_states(make_clients, make_settings):
    clients, settings = make_clients(("small",))[:2], make_settings()
    states = [first_state(client, settings) for client in clients]
    values = [1.0, 2.0]

    def fit(jobs):
        return [FitResult({"weight": torch.tensor([value])}, {"0.sum": torch.tensor(value)}) for value in values]

    taught = train_states("absorb", states, [None, None], fit)
    assert [state.parameters["weight"].item() for state in taught] == [1, 2]
    assert [state.objective_state["absorb"]["0.sum"].item() for state in taught] == [1, 2]
    values[1] = math.nan
    with pytest.raises(DivergedError, match="after absorb"):
        train_states("absorb", states, [None, None], fit)
