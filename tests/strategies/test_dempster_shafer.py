import itertools
import math

import pytest
import torch
from hostile import assert_invariants, batch, consensus, random_answers
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.dempster_shafer import DempsterShafer

RULES = ("dempster", "yager", "murphy")
RELIABILITIES = ("constant", "entropy")
CLASSES = range(4)
ANY = frozenset(CLASSES)


def masses(answer, reliability):
    """One source's basic belief assignment: a mass for each class alone, the rest for all of them together."""
    return {frozenset([k]): reliability * float(answer[k]) for k in CLASSES} | {ANY: 1 - reliability}


def combine(sources):
    """Intersect every choice of one focal set from each source; what contradicts itself lands on the empty set."""
    combined = {}
    for choice in itertools.product(*(source.items() for source in sources)):
        focal_set = ANY.intersection(*(focal for focal, _ in choice))
        combined[focal_set] = combined.get(focal_set, 0) + math.prod(mass for _, mass in choice)
    return combined


def brute_force(answers, reliabilities, rule):
    """Pignistic probabilities and conflict on one sample, by enumeration of the focal sets."""
    sources = [masses(answer, reliability) for answer, reliability in zip(answers, reliabilities, strict=True)]
    if rule == "murphy":
        mean = {focal: sum(source[focal] for source in sources) / len(sources) for focal in sources[0]}
        sources = [mean] * len(sources)
    combined = combine(sources)
    conflict = combined.pop(frozenset(), 0)
    if rule == "yager":
        combined[ANY] += conflict
    total = sum(combined.values())
    pignistic = [sum(mass / len(focal) for focal, mass in combined.items() if k in focal) / total for k in CLASSES]
    return pignistic, conflict


def entropy_reliability(answer):
    return 1 - sum(-float(p) * math.log(float(p)) for p in answer) / math.log(4)


def test_soft_labels_travel_both_ways_and_clients_are_believed_alike():
    assert DempsterShafer.sends == DempsterShafer.returns == {"soft_labels"}
    assert DempsterShafer.needs == frozenset()
    strategy = DempsterShafer()
    assert (strategy.reliability, strategy.reliability_from, strategy.rule) == (0.9, "constant", "dempster")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("reliability_from", RELIABILITIES)
@pytest.mark.parametrize("reliability", [0.3, 0.9, 0.95])
def test_the_closed_form_is_the_combination_of_all_focal_sets(rule, reliability_from, reliability):
    answers, _ = random_answers(0, 3)
    strategy = DempsterShafer(reliability, reliability_from, rule)
    fused = consensus(strategy, answers)
    for sample in range(answers.shape[1]):
        own = answers[:, sample]
        believed = [reliability * (entropy_reliability(a) if reliability_from == "entropy" else 1) for a in own]
        expected, conflict = brute_force(own, believed, rule)
        assert fused[sample].tolist() == pytest.approx(expected, abs=1e-12)
        assert strategy.conflict[sample].item() == pytest.approx(conflict, abs=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_sources_that_did_not_answer_are_none(rule):
    answers, mask = random_answers(1, 5)
    strategy = DempsterShafer(0.8, rule=rule)
    tensors = strategy.fuse(batch(answers * mask.unsqueeze(2), mask), None).common["soft_labels"]
    for sample in mask.any(0).nonzero().flatten().tolist():
        answered = answers[mask[:, sample], sample]
        expected, conflict = brute_force(answered, [0.8] * len(answered), rule)
        assert tensors["soft_labels"][sample].tolist() == pytest.approx(expected, abs=1e-12)
        assert strategy.conflict[sample].item() == pytest.approx(conflict, abs=1e-12)
    assert strategy.conflict[1] == 0
    assert not tensors["mask"][1]


def test_agreement_sharpens_and_disagreement_is_conflict_in_numbers():
    agree = torch.tensor([[[0.8, 0.2]], [[0.8, 0.2]]], dtype=torch.float64)
    # With reliability 1/2: u = 0.9^2 - 1/4 = 0.56 and 0.6^2 - 1/4 = 0.11, u(any) = 1/4, so Z = 0.92.
    strategy = DempsterShafer(0.5)
    assert consensus(strategy, agree)[0].tolist() == pytest.approx([0.685 / 0.92, 0.235 / 0.92], abs=1e-12)
    assert strategy.conflict.tolist() == pytest.approx([0.08], abs=1e-12)
    yager = DempsterShafer(0.5, rule="yager")
    assert consensus(yager, agree)[0].tolist() == pytest.approx([0.725, 0.275], abs=1e-12)
    assert yager.conflict.tolist() == pytest.approx([0.08], abs=1e-12)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("reliability", [0.0, 0.5, 0.95])
def test_a_single_source_returns_its_answer_discounted(rule, reliability):
    answers, _ = random_answers(0, 1)
    strategy = DempsterShafer(reliability, rule=rule)
    expected = reliability * answers[0] + (1 - reliability) / 4
    torch.testing.assert_close(consensus(strategy, answers), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(strategy.conflict, torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_a_source_of_reliability_zero_has_no_effect(rule):
    answers, _ = random_answers(0, 3)
    uniform = torch.full((1, 6, 4), 0.25, dtype=torch.float64)
    # A little off, as after rounding to float32.
    uniform += torch.tensor([1e-7, -1e-7, 1e-7, -1e-7])
    strategy = DempsterShafer(0.9, "entropy", rule)
    expected = consensus(strategy, answers)
    conflict = strategy.conflict
    torch.testing.assert_close(consensus(strategy, torch.cat([answers, uniform])), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(strategy.conflict, conflict, rtol=0, atol=1e-9)

    nobody = consensus(DempsterShafer(0.0, rule=rule), answers)
    torch.testing.assert_close(nobody, torch.full((6, 4), 0.25, dtype=torch.float64), rtol=0, atol=1e-15)


def test_by_entropy_one_who_is_sure_counts_most():
    answers = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[0.9, 0.1], [0.2, 0.8]]], dtype=torch.float64)
    mask = torch.tensor([[True, True], [True, False]])
    believed = DempsterShafer(0.8, "entropy").reliabilities(batch(answers, mask))
    certainty = 1 + 0.9 * math.log2(0.9) + 0.1 * math.log2(0.1)
    assert believed[0].tolist() == pytest.approx([0.8, 0], abs=1e-12)
    assert believed[1].tolist() == pytest.approx([0.8 * certainty, 0], abs=1e-12)


@pytest.mark.parametrize("number", [2, 50, 1000])
def test_many_sources_neither_underflow_nor_overflow(number):
    answer = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    answers = answer.expand(number, 1, 3)
    strategy = DempsterShafer()
    fused = consensus(strategy, answers)
    # Against exact logarithms: of u(k) relative to u of the first class, less what rounding cannot show.
    logs = [number * math.log(0.9 * p + 0.1) for p in answer.tolist()] + [number * math.log(0.1)]
    scaled = [math.exp(value - logs[0]) for value in logs]
    singletons = [value - scaled[3] for value in scaled[:3]]
    total = sum(singletons) + scaled[3]
    expected = [(value + scaled[3] / 3) / total for value in singletons]
    assert fused[0].tolist() == pytest.approx(expected, abs=1e-12)
    assert strategy.conflict.item() == pytest.approx(1 - math.exp(logs[0]) * total, abs=1e-12)


def test_yagers_rule_gives_up_where_many_disagree_and_dempsters_does_not():
    answers = torch.tensor([[0.9, 0.1]] * 6 + [[0.1, 0.9]] * 4, dtype=torch.float64).unsqueeze(1)
    assert consensus(DempsterShafer(rule="dempster"), answers)[0, 0] > 0.9
    assert consensus(DempsterShafer(rule="yager"), answers)[0, 0] == pytest.approx(0.5, abs=0.01)


def test_numbers_a_little_below_zero_are_taken_for_zero():
    unsure = torch.tensor([[[0.8005, 0.2, -0.0005]]], dtype=torch.float64)
    believed = DempsterShafer(0.9, "entropy").reliabilities(batch(unsure))
    entropy = -0.8005 * math.log(0.8005) - 0.2 * math.log(0.2)
    assert believed.item() == pytest.approx(0.9 * (1 - entropy / math.log(3)), abs=1e-12)

    answers = torch.tensor([[[1.0005, -0.0005]], [[1.0, 0.0]]], dtype=torch.float64)
    for reliability_from, rule in itertools.product(RELIABILITIES, RULES):
        fused = consensus(DempsterShafer(0.9, reliability_from, rule), answers)
        assert (fused >= 0).all()
        torch.testing.assert_close(fused.sum(1), torch.ones(1, dtype=torch.float64), rtol=0, atol=1e-12)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    number=st.integers(1, 8),
    reliability=st.floats(0, 0.95),
    reliability_from=st.sampled_from(RELIABILITIES),
    rule=st.sampled_from(RULES),
)
def test_labels_are_on_the_simplex_whatever_the_order_by_answers_alone(
    seed, number, reliability, reliability_from, rule
):
    strategy = DempsterShafer(reliability, reliability_from, rule)
    assert_invariants(strategy, seed, number)
    assert ((strategy.conflict >= 0) & (strategy.conflict <= 1)).all()


def test_the_conflict_is_of_the_last_round():
    strategy = DempsterShafer()
    assert strategy.conflict is None
    for samples in (6, 3):
        consensus(strategy, random_answers(0, 3, samples)[0])
        assert strategy.conflict.shape == (samples,)
        assert strategy.conflict.dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"reliability": -0.1}, "reliability=-0.1 must be from 0 to 0.95"),
        ({"reliability": 1.0}, "reliability=1.0 must be from 0 to 0.95"),
        ({"reliability": float("nan")}, "reliability=nan must be from 0 to 0.95"),
        ({"reliability_from": "epd"}, "reliability_from='epd' must be one of constant, entropy"),
        ({"rule": "smets"}, "rule='smets' must be one of dempster, yager, murphy"),
    ],
)
def test_an_argument_outside_of_its_range_is_refused(arguments, text):
    with pytest.raises(ValueError, match=text):
        DempsterShafer(**arguments)
