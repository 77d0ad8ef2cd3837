import math
from dataclasses import dataclass, replace

import pytest
import torch

from fedfuse.client.fit import FitJob, Stream, Term, loss_of_step
from fedfuse.components import build
from fedfuse.composition import compose
from fedfuse.configuration import OptimizerSettings, from_yaml, to_yaml
from fedfuse.engine import sequential, stacked
from fedfuse.errors import ConfigurationError
from fedfuse.models.outputs import Outputs
from fedfuse.objectives.cross_entropy import CrossEntropy
from fedfuse.objectives.generated import Generated
from fedfuse.objectives.hyper_knowledge import HyperKnowledge
from fedfuse.objectives.kd import KD
from fedfuse.objectives.objective import head_part_of, part_for
from fedfuse.objectives.prototype import Prototype
from fedfuse.objectives.sum import Sum
from fedfuse.objectives.taid import TAID

BATCH, CLASSES = 6, 3
EVERY = torch.ones(BATCH, dtype=torch.bool)
SOME = torch.tensor([True, True, False, True, False, False])


@dataclass(frozen=True)
class Spread:
    """A loss that judges a batch as a whole: the mean square of the logits."""

    needs = frozenset({"soft_labels"})
    per_sample = False

    def initial_state(self):
        return {}

    def __call__(self, outputs, batch, mask, state):
        squares = torch.where(mask, outputs.logits.square().sum(1), 0)
        return squares.sum() / mask.sum().clamp_min(1), state


@dataclass(frozen=True)
class Counting:
    """A loss that is its step's number."""

    needs = frozenset({"labels"})
    per_sample = True

    def initial_state(self):
        return {"steps": torch.tensor(0.0, dtype=torch.float64)}

    def __call__(self, outputs, batch, mask, state):
        return 0 * outputs.logits.sum(1) + state["steps"], {"steps": state["steps"] + 1}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_outputs(seed=0):
    return Outputs(random(BATCH, CLASSES, seed=seed), random(BATCH, 2, seed=seed + 1))


def make_batch(seed=0):
    return {
        "inputs": random(BATCH, 2),
        "labels": torch.arange(BATCH) % CLASSES,
        "soft_labels": torch.softmax(random(BATCH, CLASSES, seed=seed + 2), dim=1),
        "prototypes": random(CLASSES, 2, seed=seed + 3),
        "prototype_mask": torch.tensor([True, True, False]),
    }


def loss_of(objective, outputs, batch, mask):
    """The loss of a step, as a runner computes it."""
    loss, _ = loss_of_step(lambda inputs: outputs, None, [Term("only", objective)], {"only": batch}, {"only": mask}, {})
    return loss


def test_losses_of_samples_are_added_with_their_weights():
    outputs, batch = make_outputs(), make_batch()
    losses, state = Sum([KD(), CrossEntropy()], [2, 0.5])(outputs, batch, EVERY, {})
    first, second = (term(outputs, batch, EVERY, {})[0] for term in (KD(), CrossEntropy()))
    torch.testing.assert_close(losses, 2 * first + 0.5 * second, rtol=1e-14, atol=0)
    assert losses.shape == (BATCH,)
    assert state == {}


def test_without_weights_every_term_counts_one():
    outputs, batch = make_outputs(), make_batch()
    losses, _ = Sum([KD(), KD(), CrossEntropy()])(outputs, batch, EVERY, {})
    expected = 2 * KD()(outputs, batch, EVERY, {})[0] + CrossEntropy()(outputs, batch, EVERY, {})[0]
    torch.testing.assert_close(losses, expected, rtol=1e-14, atol=0)


def test_a_loss_of_the_whole_batch_makes_the_sum_one_number():
    outputs, batch = make_outputs(), make_batch()
    loss, _ = Sum([KD(), Spread()], [3, 2])(outputs, batch, SOME, {})
    mean = KD()(outputs, batch, SOME, {})[0][SOME].mean()
    expected = 3 * mean + 2 * outputs.logits[SOME].square().sum(1).mean()
    assert loss.shape == ()
    torch.testing.assert_close(loss, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("others", [[], [Spread()]])
def test_weights_of_samples_count_alike_whether_or_not_the_sum_is_one_number(others):
    outputs, batch = make_outputs(), make_batch() | {"weights": torch.tensor([2.0, 0, 9, 0.5, 9, 9]).double()}
    loss = loss_of(Sum([KD(), *others]), outputs, batch, SOME)
    first, _, _, fourth, _, _ = KD()(outputs, batch, SOME, {})[0]
    expected = (2 * first + 0.5 * fourth) / 3 + sum(other(outputs, batch, SOME, {})[0] for other in others)
    torch.testing.assert_close(loss, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("terms", [[KD(), CrossEntropy()], [KD(), Spread()], [Spread(), Sum([KD(), Spread()], [1, 2])]])
def test_padding_never_matters_and_a_batch_of_nothing_else_costs_nothing(terms):
    outputs, batch = make_outputs(), make_batch()
    logits = outputs.logits.clone()
    logits[~SOME] = math.inf
    padded = Outputs(logits, outputs.features)
    torch.testing.assert_close(loss_of(Sum(terms), padded, batch, SOME), loss_of(Sum(terms), outputs, batch, SOME))
    leaf = outputs.logits.requires_grad_()
    loss = loss_of(Sum(terms), Outputs(leaf, outputs.features), batch, ~EVERY)
    loss.backward()
    assert loss == 0
    assert (leaf.grad == 0).all()


def test_gradient_agrees_with_finite_differences():
    batch, total = make_batch(), Sum([KD(2.0), Spread(), Sum([CrossEntropy()], [0.3])], [1, 0.1, 2])
    logits = make_outputs().logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda given: loss_of(total, Outputs(given, given), batch, SOME), (logits,))


def test_it_needs_what_any_term_needs_and_is_per_sample_if_all_are():
    assert Sum([KD(), Prototype()]).needs == {"soft_labels", "labels", "prototypes"}
    assert Sum([KD(), Sum([CrossEntropy()])]).needs == {"soft_labels", "labels"}
    assert Sum([KD(), Prototype()]).per_sample is True
    assert Sum([KD(), Spread()]).per_sample is False
    assert Sum([KD(), Sum([Spread()])]).per_sample is False


def test_each_term_has_a_memory_of_its_own_also_in_a_sum_of_sums():
    total = Sum([Counting(), KD(), Sum([KD(), Counting()], [1, 5])], [1, 0, 10])
    state = total.initial_state()
    assert set(state) == {"0_steps", "2_1_steps"}
    outputs, batch = make_outputs(), make_batch()
    state = {"0_steps": torch.tensor(3.0).double(), "2_1_steps": torch.tensor(7.0).double()}
    losses, after = total(outputs, batch, EVERY, state)
    expected = 3 + 10 * (KD()(outputs, batch, EVERY, {})[0] + 5 * 7)
    torch.testing.assert_close(losses, expected, rtol=1e-14, atol=0)
    assert {name: value.item() for name, value in after.items()} == {"0_steps": 4, "2_1_steps": 8}


def test_memories_of_the_second_and_of_the_eleventh_term_are_not_mixed_up():
    total = Sum([Counting()] * 11)
    state = {f"{number}_steps": torch.tensor(float(number)).double() for number in range(11)}
    losses, after = total(make_outputs(), make_batch(), EVERY, state)
    assert losses.tolist() == [55] * BATCH
    assert [after[f"{number}_steps"].item() for number in range(11)] == list(range(1, 12))


def test_a_part_is_the_terms_that_can_be_learnt_from_with_their_weights_and_their_memory():
    total = Sum([KD(), Counting(), Prototype()], [2, 3, 4])
    part = part_for(total, {"labels", "soft_labels"})
    assert part == Sum((KD(), Counting()), (2, 3), (0, 1))
    alone = part_for(total, {"labels"})
    assert set(alone.initial_state()) == {"1_steps"}
    losses, after = alone(make_outputs(), make_batch(), EVERY, {"1_steps": torch.tensor(5.0).double()})
    assert losses.tolist() == [15] * BATCH
    assert after["1_steps"] == 6
    assert part_for(alone, {"labels", "soft_labels"}).initial_state().keys() == {"1_steps"}
    assert part_for(total, {"known_classes"}) is None


def test_a_part_of_a_sum_of_sums_leaves_out_terms_of_both():
    inner = Sum([KD(), Counting()], [5, 6])
    part = part_for(Sum([Prototype(), inner, Sum([Prototype()])], [1, 2, 3]), {"labels"})
    losses, after = part(make_outputs(), make_batch(), EVERY, {"1_1_steps": torch.tensor(1.0).double()})
    assert losses.tolist() == [12] * BATCH
    assert after == {"1_1_steps": 2}
    assert part.needs == {"labels"}


def test_at_the_head_it_is_the_sum_of_what_the_terms_are_there():
    of_classes = HyperKnowledge(weight=0.7, temperature=0.3)
    total = Sum([KD(), Generated(2.0), Sum([Prototype(), of_classes], [9, 3])], [5, 0.5, 4])
    at_head = head_part_of(total)
    assert at_head == Sum((Generated(2.0), Sum((of_classes.at_head,), (3,), (1,))), (0.5, 4), (1, 2))
    assert head_part_of(Sum([KD(), Sum([Prototype()])])) is None


def test_many_clients_at_once_give_what_each_gives_alone():
    total = Sum([TAID(), Spread(), Sum([CrossEntropy()])], [1, 0.5, 2])
    outputs, batches = [make_outputs(seed) for seed in (0, 50)], [make_batch(seed) for seed in (0, 50)]
    masks, states = [EVERY, SOME], [total.initial_state()] * 2
    alone = [total(*of_client) for of_client in zip(outputs, batches, masks, states, strict=True)]
    losses, after = torch.vmap(lambda logits, *others: total(Outputs(logits, logits), *others))(
        torch.stack([own.logits for own in outputs]),
        {name: torch.stack([batch[name] for batch in batches]) for name in batches[0]},
        torch.stack(masks),
        {name: torch.stack([state[name] for state in states]) for name in states[0]},
    )
    for row, (loss, own) in enumerate(alone):
        torch.testing.assert_close(losses[row], loss, rtol=1e-12, atol=0)
        for name, value in own.items():
            torch.testing.assert_close(after[name][row], value, rtol=1e-12, atol=0)


@pytest.mark.parametrize("fit", [sequential.fit, stacked.fit])
def test_memory_goes_on_in_the_next_fit_where_only_a_part_can_be_learnt_from(architectures, make_samples, fit):
    total, samples = Sum([KD(), Counting()]), make_samples(4)
    jobs = []
    for seed in (0, 1):
        soft_labels = torch.softmax(random(4, 3, seed=seed), dim=1)
        tensors = {"inputs": samples.inputs, "labels": samples.labels, "soft_labels": soft_labels}
        stream = Stream(tensors, torch.tensor([[0, 1], [2, 3]]))
        parameters = architectures["small"].initial_parameters(seed, torch.float64)
        terms = (Term("transfer", total),)
        jobs.append(FitJob(architectures["small"], parameters, {"transfer": stream}, terms, OptimizerSettings(lr=0.1)))
    first = fit(jobs)
    assert [result.objective_state["transfer.0.1_steps"].item() for result in first] == [2, 2]
    part = (Term("transfer", part_for(total, {"labels"})),)
    again = [
        replace(job, terms=part, objective_state=own.objective_state) for job, own in zip(jobs, first, strict=True)
    ]
    assert [result.objective_state["transfer.0.1_steps"].item() for result in fit(again)] == [4, 4]


# -- composed from names -----------------------------------------------------------------------------------------------


def composed(*overrides):
    configuration = compose(["objective=sum", *overrides])
    assert from_yaml(to_yaml(configuration)) == configuration
    return build(configuration.objective, "objective")


def test_terms_are_chosen_by_name_and_their_values_changed():
    assert composed() == Sum([KD()])
    overrides = ("objective.terms=[kd,{name: taid, end: 0.9}]", "objective.weights=[1,0.5]")
    assert composed(*overrides) == Sum([KD(), TAID(end=0.9)], [1, 0.5])
    assert composed("objective.terms=prototype") == Sum([Prototype()])


def test_a_sum_can_be_a_term():
    inner = "{name: sum, terms: [{name: kd, temperature: 3}, prototype], weights: [2, 4]}"
    assert composed(f"objective.terms=[cross_entropy,{inner}]") == Sum(
        [CrossEntropy(), Sum([KD(3), Prototype()], [2, 4])]
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective.terms=[]"], r"terms=\[\] must hold at least one objective"),
        (["objective.terms=[kkd]"], "kkd.*'kd'"),
        (["objective.terms=[{name: kd, temperatur: 2}]"], "temperatur.*'temperature'"),
        (["objective.terms=[{name: kd, temperature: 0}]"], "temperature=0 must be positive and finite"),
        (["objective.weights=[1,2]"], r"weights=\[1, 2\] must hold one number for each of 1 terms"),
        (["objective.weights=[]"], r"weights=\[\] must hold one number for each of 1 terms"),
        (["objective.weights=2"], "weights=2 must hold one number for each of 1 terms"),
        (["objective.weights=[-0.5]"], r"weights=\[-0.5\] must be finite and not negative"),
    ],
)
def test_what_cannot_be_summed_is_refused(overrides, message):
    with pytest.raises(ConfigurationError, match=message):
        composed(*overrides)


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_a_weight_that_is_not_finite_is_refused(weight):
    with pytest.raises(ValueError, match="must be finite and not negative"):
        Sum([KD(), KD()], [1, weight])


def test_numbers_of_other_terms_are_refused():
    with pytest.raises(ValueError, match=r"numbers=\[1\] must hold one number for each of 2 terms"):
        Sum([KD(), KD()], numbers=[1])


def test_a_sum_cannot_be_changed():
    with pytest.raises(AttributeError):
        Sum([KD()]).weights = [2]
