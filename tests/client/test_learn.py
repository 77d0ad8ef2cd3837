import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn import functional

from fedfuse.client.client import first_state
from fedfuse.client.fit import FitJob, FitResult, Stream
from fedfuse.client.learn import DivergedError, learn, train_states
from fedfuse.client.predict import predict
from fedfuse.client.teach import teach
from fedfuse.configuration import OptimizerSettings, TrainingSettings
from fedfuse.engine import sequential, stacked
from fedfuse.models.architecture import describe
from fedfuse.models.fused_head import with_fused_head
from fedfuse.models.mlp import MLP
from fedfuse.objectives.class_logits import ClassLogits
from fedfuse.objectives.class_relation import ClassRelation
from fedfuse.objectives.cross_entropy import CrossEntropy
from fedfuse.objectives.generated import Generated
from fedfuse.objectives.hyper_knowledge import HyperKnowledge
from fedfuse.objectives.kd import KD
from fedfuse.objectives.prototype import Prototype
from fedfuse.objectives.sum import Sum
from fedfuse.objectives.taid import TAID
from fedfuse.transfer.gap_mixture import GapMixture
from fedfuse.transfer.margin import Margin


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
            objective_state={"transfer.0.mean": torch.tensor(1.0), "private.0.mean": torch.tensor(2.0)},
            received={"soft_labels": {"soft_labels": torch.ones(1)}},
            absorbed_round=4,
        )
        for client in clients
    ]
    runner, after = record(clients, settings, 1, before, objective_state={"private.0.mean": torch.tensor(3.0)})
    for job, old, new in zip(runner.jobs, before, after, strict=True):
        assert job.objective_state == old.objective_state
        assert new.objective_state == {"transfer.0.mean": 1, "private.0.mean": 3}
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


# -- rehearsal ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def rehearsing(make_settings):
    """Return a function that makes settings in which this share of the loss is that of fused soft labels."""

    def make(rehearse, epochs=2, batch_size=4, momentum=0.5, **others):
        optimizer = OptimizerSettings("sgd", lr=0.1, momentum=momentum)
        learning = TrainingSettings(epochs, batch_size, optimizer, rehearse=rehearse)
        return make_settings(**{"learn": learning, "absorb": TrainingSettings(2, 3, optimizer)} | others)

    return make


def with_soft_labels(state, rows=(0, 2, 3, 7), seed=0):
    generator = torch.Generator().manual_seed(seed)
    soft_labels = torch.softmax(2 * torch.randn(10, 3, generator=generator, dtype=torch.float64), 1)
    kept = {"soft_labels": soft_labels, "rows": torch.tensor(rows, dtype=torch.int64)}
    return replace(state, received={**state.received, "soft_labels": kept})


def gradients(client, state, loss):
    """The gradients of a loss of the client's model, by the name of the parameter."""
    model = client.architecture.module().double()
    model.load_state_dict(state.parameters)
    loss(model).backward()
    return {name: torch.zeros_like(own) if own.grad is None else own.grad for name, own in model.named_parameters()}


def cross_entropy_of(client):
    train = client.data.train
    return lambda model: functional.cross_entropy(model(train.inputs).logits, train.labels)


def distance_from(soft_labels, inputs, head="logits"):
    """KL divergence of the answers on these samples from their soft labels: KD at temperature 1."""
    return lambda model: functional.kl_div(
        torch.log_softmax(getattr(model(inputs), head), 1), soft_labels, reduction="batchmean"
    )


@pytest.mark.parametrize("share", [0.25, 0.7])
def test_every_step_learns_from_own_labels_and_from_fused_soft_labels_by_their_shares(make_clients, rehearsing, share):
    (client,) = make_clients(("small",), sizes=(6,))
    # One step over all samples.
    settings = rehearsing(share, epochs=1, batch_size=6, momentum=0, objective=KD(1.0))
    state = with_soft_labels(first_state(client, settings))
    ((job,),) = record([client], settings, states=[state])[0].calls
    ((*rows,),) = job.streams["transfer"].plan.tolist()
    assert len(set(rows)) == 3
    assert set(rows) <= {0, 2, 3, 7}
    fused = state.received["soft_labels"]["soft_labels"][rows]
    own = gradients(client, state, cross_entropy_of(client))
    others = gradients(client, state, distance_from(fused, settings.transfer.inputs[rows]))
    (after,) = learn([client], [state], 1, settings, sequential.fit)
    for name, before in state.parameters.items():
        expected = before - 0.1 * ((1 - share) * own[name] + share * others[name])
        torch.testing.assert_close(after.parameters[name], expected, rtol=0, atol=1e-12)
        assert (own[name] - others[name]).abs().max() > 1e-3


def test_the_private_samples_stay_in_their_order_and_the_transfer_samples_fill_as_many_steps(make_clients, rehearsing):
    clients, settings = make_clients(("small",), sizes=(5, 9)), rehearsing(0.25)
    first = [first_state(client, settings) for client in clients]
    plain = record(clients, rehearsing(0), states=first)[0].jobs
    jobs = record(clients, settings, states=[with_soft_labels(state) for state in first])[0].jobs
    for job, without in zip(jobs, plain, strict=True):
        assert [(term.stream, term.objective, term.on_fused_head) for term in job.terms] == [
            ("private", CrossEntropy(), False),
            ("transfer", KD(), True),
        ]
        assert torch.equal(job.streams["private"].plan, without.streams["private"].plan)
        assert {name: stream.constants["scale"] for name, stream in job.streams.items()} == {
            "private": 0.75,
            "transfer": 0.25,
        }
        # The batches are those of absorb, and whole: an epoch of four samples after another.
        plan = job.streams["transfer"].plan
        assert plan.shape == (len(job.streams["private"].plan), 3)
        visited = plan.flatten().tolist()
        assert all(sorted(visited[at : at + 4]) == [0, 2, 3, 7] for at in range(0, len(visited) - 3, 4))


def test_prototypes_share_with_the_labels(make_clients, rehearsing):
    clients, objective = make_clients(("small",), sizes=(5,)), Sum([KD(), Prototype()])
    settings = rehearsing(0.25, objective=objective)
    state = with_soft_labels(with_prototypes(first_state(clients[0], settings)))
    (job,) = record(clients, settings, states=[state])[0].jobs
    assert [(term.stream, term.on_fused_head) for term in job.terms] == [
        ("private", False),
        ("private", True),
        ("transfer", True),
    ]
    assert set(job.streams["private"].constants) == {"prototypes", "prototype_mask", "scale"}
    assert job.streams["private"].constants["scale"] == 0.75
    assert [term.objective.terms for term in job.terms[1:]] == [(Prototype(),), (KD(),)]


@pytest.mark.parametrize("fit", [sequential.fit, stacked.fit])
@pytest.mark.parametrize("give", [lambda state: state, lambda state: with_soft_labels(state, rows=())])
def test_as_long_as_nothing_came_back_clients_learn_as_without_rehearsal(make_clients, rehearsing, fit, give):
    clients = make_clients(("small",), sizes=(5, 9))
    states = [give(first_state(client, rehearsing(0))) for client in clients]
    with_rehearsal = learn(clients, states, 1, rehearsing(0.9, lesson=(GapMixture(),)), fit)
    without = learn(clients, states, 1, rehearsing(0), fit)
    for own, other in zip(with_rehearsal, without, strict=True):
        assert same(own.parameters, other.parameters)
        assert own.objective_state == {}


def test_what_is_kept_for_other_ends_is_not_learnt_from_without_rehearsal(make_clients, rehearsing):
    clients, settings = make_clients(("small",), sizes=(5,)), rehearsing(0)
    (job,) = record(clients, settings, states=[with_soft_labels(first_state(clients[0], settings))])[0].jobs
    assert set(job.streams) == {"private"}
    assert job.streams["private"].constants == {}


@pytest.mark.parametrize("fit", [sequential.fit, stacked.fit])
@pytest.mark.parametrize(
    ("objective", "lesson"), [(KD(), ()), (TAID(num_steps=9), (GapMixture(), Margin())), (ClassRelation(), ())]
)
def test_clients_with_and_without_fused_soft_labels_learn_side_by_side(
    make_clients, rehearsing, fit, objective, lesson
):
    clients = make_clients(("small",), sizes=(5, 16, 17, 0, 7))
    settings = rehearsing(0.4, objective=objective, lesson=lesson)
    first = [first_state(client, settings) for client in clients]
    states = [
        with_soft_labels(first[0]),
        first[1],
        with_soft_labels(first[2], rows=(5,), seed=1),
        with_soft_labels(first[3]),
        with_soft_labels(first[4], rows=()),
    ]
    together = learn(clients, states, 1, settings, fit)
    for client, state, own in zip(clients, states, together, strict=True):
        (alone,) = learn([client], [state], 1, settings, sequential.fit)
        for name, tensor in alone.parameters.items():
            torch.testing.assert_close(own.parameters[name], tensor, rtol=0, atol=1e-12)
        assert set(own.objective_state) == set(alone.objective_state)
        for name, tensor in alone.objective_state.items():
            torch.testing.assert_close(own.objective_state[name], tensor, rtol=0, atol=1e-12)
    without = learn(clients, first, 1, settings, fit)
    changed = [not same(own.parameters, other.parameters) for own, other in zip(together, without, strict=True)]
    assert changed == [True, False, True, False, False]
    assert together[1].received is states[1].received


def test_what_a_lesson_remembers_stays_beside_all_other_memory(make_clients, rehearsing):
    (client,), settings = make_clients(("small",), sizes=(5,)), rehearsing(0.4, lesson=(Margin(), GapMixture()))
    remembered = {"private.0.mean": torch.tensor(2.0), "transfer.0.t": torch.tensor(0.5)}
    state = replace(with_soft_labels(first_state(client, settings)), objective_state=remembered)
    kept = state.received["soft_labels"]
    (taught,) = teach([client], [state], [(kept["soft_labels"], kept["rows"])], "learn", [1], settings)
    runner, (after,) = record([client], settings, states=[state])
    assert set(taught.memory) == {"lesson.1.mixture"}
    assert runner.jobs[0].objective_state == remembered | {
        "lesson.1.mixture": after.objective_state["lesson.1.mixture"]
    }
    assert torch.equal(after.objective_state["lesson.1.mixture"], taught.memory["lesson.1.mixture"])


def test_rehearsal_moves_a_model_towards_what_was_fused(make_clients, rehearsing):
    (client,) = make_clients(("small",), sizes=(16,))
    state = with_soft_labels(first_state(client, rehearsing(0)), rows=range(10))
    distance = distance_from(state.received["soft_labels"]["soft_labels"], rehearsing(0).transfer.inputs)

    def after(share):
        (learnt,) = learn([client], [state], 1, rehearsing(share, epochs=20), sequential.fit)
        model = client.architecture.module().double()
        model.load_state_dict(learnt.parameters)
        return distance(model).item()

    distances = [after(share) for share in (0, 0.5, 0.9)]
    assert distances == sorted(distances, reverse=True)
    assert distances[2] < 0.5 * distances[0]


def test_the_second_head_learns_from_fused_soft_labels_alone_and_the_first_from_labels(make_clients, rehearsing):
    (client,) = make_clients(("small",), sizes=(6,))
    build = partial(MLP, (1, 4, 4), 3, hidden=(6,), embedding_size=5)
    client = replace(client, architecture=describe("two", partial(with_fused_head, build, 5, 3), (1, 4, 4)))
    settings = rehearsing(0.25, epochs=1, batch_size=6, momentum=0, objective=KD(1.0))
    state = with_soft_labels(first_state(client, settings))
    ((job,),) = record([client], settings, states=[state])[0].calls
    ((*rows,),) = job.streams["transfer"].plan.tolist()
    inputs, fused = settings.transfer.inputs[rows], state.received["soft_labels"]["soft_labels"][rows]
    own = gradients(client, state, cross_entropy_of(client))
    others = gradients(client, state, distance_from(fused, inputs, head="fused_logits"))
    assert not own["fused_head.weight"].any()
    assert not others["head.weight"].any()
    (after,) = learn([client], [state], 1, settings, sequential.fit)
    for name, before in state.parameters.items():
        expected = before - 0.1 * (0.75 * own[name] + 0.25 * others[name])
        torch.testing.assert_close(after.parameters[name], expected, rtol=0, atol=1e-12)
        assert not torch.equal(after.parameters[name], before)


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
    streams = {"transfer": Stream({}, torch.empty(0, 4, dtype=torch.int64))}
    optimizer, memory = OptimizerSettings(), {"lesson.0.mixture": torch.tensor(7.0)}
    jobs = [FitJob(client.architecture, {}, streams, (), optimizer, memory) for client in clients]
    values = [1.0, 2.0]

    def fit(jobs):
        return [
            FitResult({"weight": torch.tensor([value])}, {"transfer.0.sum": torch.tensor(value)}) for value in values
        ]

    taught = train_states("absorb", states, jobs, fit)
    assert [state.parameters["weight"].item() for state in taught] == [1, 2]
    assert [state.objective_state["transfer.0.sum"].item() for state in taught] == [1, 2]
    assert [state.objective_state["lesson.0.mixture"].item() for state in taught] == [7, 7]
    values[1] = math.nan
    with pytest.raises(DivergedError, match="after absorb"):
        train_states("absorb", states, jobs, fit)
