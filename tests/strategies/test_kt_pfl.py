import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfuse.knowledge import KnowledgeBatch
from strategies.kt_pfl import KTpFL


def batch(soft_labels, mask=None, client_ids=None):
    number, samples, _ = soft_labels.shape
    mask = torch.ones(number, samples, dtype=torch.bool) if mask is None else mask
    return KnowledgeBatch(
        client_ids=tuple(range(number)) if client_ids is None else client_ids,
        round=1,
        tensors={"soft_labels": {"soft_labels": soft_labels, "mask": mask}},
    )


def random_soft_labels(*shape, seed=0, size=2.0):
    random = torch.Generator().manual_seed(seed)
    return torch.softmax(size * torch.randn(*shape, generator=random, dtype=torch.float64), dim=2)


def fused_labels(fused):
    return torch.stack([own["soft_labels"]["soft_labels"] for own in fused.personal.values()])


def test_soft_labels_travel_both_ways_and_the_regularisation_is_that_of_the_paper():
    assert KTpFL.sends == KTpFL.returns == {"soft_labels"}
    assert KTpFL.needs == frozenset()
    assert (KTpFL().regularisation, KTpFL().space) == (0.7, "probability")


@pytest.mark.parametrize("number", [1, 2, 7])
def test_at_first_everybody_gets_the_plain_mean(number):
    soft_labels = random_soft_labels(number, 6, 4)
    fused = KTpFL().fuse(batch(soft_labels), None)
    torch.testing.assert_close(fused_labels(fused), soft_labels.mean(0).expand(number, 6, 4), rtol=0, atol=1e-14)
    torch.testing.assert_close(fused.relevance, torch.full((number, number), 1 / number, dtype=torch.float64))


def test_the_coefficients_of_the_second_round_in_numbers():
    # Two clients that answer (1, 0) and (0, 1) to the only sample: half the gradient on the own coefficient is -1/4,
    # on the other 1/4; half the curvature is 1/2, and 0.7 / 2 from the regulariser.
    soft_labels = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=torch.float64)
    strategy = KTpFL()
    strategy.relate(batch(soft_labels))
    own = 1 / (1 + math.exp(-5 * 2 * 0.25 / 0.85))
    second = strategy.fuse(batch(soft_labels), None)
    assert second.relevance.flatten().tolist() == pytest.approx([own, 1 - own, 1 - own, own], abs=1e-12)
    assert fused_labels(second)[0, 0].tolist() == pytest.approx([own, 1 - own], abs=1e-12)


@pytest.mark.parametrize("regularisation", [0.0, 0.7, 3.0])
def test_each_step_descends_the_loss_from_where_the_round_began(regularisation):
    number, strategy = 4, KTpFL(regularisation)

    def loss(row, coefficients, soft_labels):
        mixture = torch.einsum("m,mxc->xc", coefficients, soft_labels)
        distance = (mixture - soft_labels[row]).square().mean()
        return distance + regularisation * (coefficients - 1 / number).square().mean()

    for seed in range(3):
        soft_labels = random_soft_labels(number, 6, 5, seed=seed)
        before = strategy.relate(batch(soft_labels))
        after = KTpFL(regularisation)
        after.load_state_dict(strategy.state_dict())
        following = after.relate(batch(soft_labels))
        for row in range(number):
            coefficients = before[row].clone().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(row, coefficients, soft_labels), coefficients)
            # On vectors that sum to zero: a shift of all coefficients is nothing to the softmax.
            centred = soft_labels - 1 / 5
            curvature = torch.autograd.functional.hessian(lambda c, row=row, p=centred: loss(row, c, p), before[row])
            step = gradient / torch.linalg.eigvalsh(curvature).max()
            expected = torch.softmax(5 * (before[row] - step), dim=0)
            torch.testing.assert_close(following[row], expected, rtol=0, atol=1e-10)


def test_clients_of_a_kind_learn_to_listen_to_each_other():
    kinds = random_soft_labels(2, 50, 10, size=4.0)[[0, 0, 0, 1, 1, 1]]
    soft_labels = 0.9 * kinds + 0.1 * random_soft_labels(6, 50, 10, seed=1)
    strategy = KTpFL()
    for _ in range(5):
        relevance = strategy.relate(batch(soft_labels))
    assert relevance[:3, :3].min() > 2 * relevance[:3, 3:].max()
    assert relevance[3:, 3:].min() > 2 * relevance[3:, :3].max()


def test_a_stronger_regulariser_holds_the_coefficients_nearer_to_the_mean():
    soft_labels = random_soft_labels(8, 30, 5)
    distances = []
    for regularisation in (0.0, 0.7, 100.0):
        strategy = KTpFL(regularisation)
        strategy.relate(batch(soft_labels))
        distances.append(float((strategy.relate(batch(soft_labels)) - 1 / 8).abs().max()))
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 0.01


@pytest.mark.parametrize("regularisation", [0.0, 0.7])
def test_clients_that_agree_change_nothing_in_any_round(regularisation):
    soft_labels = random_soft_labels(1, 6, 4).expand(5, 6, 4)
    strategy = KTpFL(regularisation)
    for _ in range(4):
        fused = strategy.fuse(batch(soft_labels), None)
        torch.testing.assert_close(fused_labels(fused), soft_labels, rtol=0, atol=1e-12)
        torch.testing.assert_close(fused.relevance, torch.full((5, 5), 0.2, dtype=torch.float64), rtol=0, atol=1e-6)


def test_clients_that_know_nothing_keep_the_plain_mean():
    uniform = torch.full((3, 4, 5), 0.2, dtype=torch.float64)
    strategy = KTpFL(0.0)
    strategy.relate(batch(uniform))
    assert torch.equal(strategy.relate(batch(uniform)), torch.full((3, 3), 1 / 3, dtype=torch.float64))


def test_who_is_away_is_remembered_and_what_the_others_learn_meanwhile_takes_nothing_from_it():
    soft_labels = random_soft_labels(4, 20, 5)
    strategy = KTpFL()
    strategy.relate(batch(soft_labels, client_ids=(2, 3, 5, 9)))
    before = strategy.state_dict()["coefficients"]
    present = strategy.relate(batch(soft_labels[[0, 3]], client_ids=(2, 9)))
    block = before[[0, 3]][:, [0, 3]]
    torch.testing.assert_close(present, block / block.sum(1, keepdim=True))
    after = strategy.state_dict()["coefficients"]
    assert torch.equal(after[1:3], before[1:3])
    assert torch.equal(after[:, 1:3], before[:, 1:3])
    assert not torch.allclose(after[0, 3], before[0, 3])
    torch.testing.assert_close(after.sum(1), torch.full((4,), 4.0, dtype=torch.float64))


def test_a_client_that_comes_later_counts_as_much_as_the_others_on_average():
    soft_labels = random_soft_labels(3, 20, 5)
    strategy = KTpFL()
    strategy.relate(batch(soft_labels[:2], client_ids=(4, 7)))
    known = strategy.state_dict()["coefficients"]
    # It is sorted before the others.
    relevance = strategy.relate(batch(soft_labels, client_ids=(1, 4, 7)))
    assert relevance[0].tolist() == pytest.approx([1 / 3] * 3)
    assert relevance[1:, 0].tolist() == pytest.approx([1 / 3] * 2)
    torch.testing.assert_close(relevance[1:, 1:], known / 3)


def test_a_resumed_strategy_goes_on_as_if_never_stopped(tmp_path):
    rounds = [((0, 1, 4), 0), ((1, 4, 6), 1), ((0, 6), 2), ((0, 1, 4, 6), 3)]

    def run(strategy, some):
        return [
            strategy.relate(batch(random_soft_labels(len(ids), 6, 4, seed=seed), client_ids=ids)) for ids, seed in some
        ]

    straight = run(KTpFL(), rounds)
    first = KTpFL()
    run(first, rounds[:2])
    torch.save(first.state_dict(), tmp_path / "state.pt")
    run(first, rounds[2:])  # what was saved must not follow
    second = KTpFL()
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for resumed, expected in zip(run(second, rounds[2:]), straight[2:], strict=True):
        assert torch.equal(resumed, expected)


def test_what_state_dict_returned_stays_as_it_was():
    strategy = KTpFL()
    strategy.relate(batch(random_soft_labels(3, 6, 4)))
    state = strategy.state_dict()
    kept = state["coefficients"].clone()
    strategy.relate(batch(random_soft_labels(3, 6, 4)))
    loaded = KTpFL()
    loaded.load_state_dict(state)
    loaded.relate(batch(random_soft_labels(3, 6, 4)))
    assert torch.equal(state["coefficients"], kept)
    assert state["clients"] == [0, 1, 2]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), number=st.integers(1, 8), regularisation=st.floats(0, 10))
def test_results_follow_the_clients_and_what_was_not_answered_counts_for_nothing(seed, number, regularisation):
    random = torch.Generator().manual_seed(seed)
    soft_labels = random_soft_labels(number, 6, 4, seed=seed)
    mask = torch.rand(number, 6, generator=random) < 0.7
    order = torch.randperm(number, generator=random)
    garbage = torch.where(mask.unsqueeze(2), soft_labels, 1e6)
    soft_labels = soft_labels * mask.unsqueeze(2)
    strategy, permuted, filled = (KTpFL(regularisation) for _ in range(3))
    for _ in range(3):
        fused = strategy.fuse(batch(soft_labels, mask), None)
        assert (fused.relevance > 0).all()
        ones = torch.ones(number, dtype=torch.float64)
        torch.testing.assert_close(fused.relevance.sum(1), ones, rtol=0, atol=1e-12)
        labels = fused_labels(fused)
        assert (labels >= 0).all()
        torch.testing.assert_close(labels.sum(2), ones.unsqueeze(1).expand(number, 6), rtol=0, atol=1e-12)
        assert all(torch.equal(own["soft_labels"]["mask"], mask.any(0)) for own in fused.personal.values())

        other = permuted.fuse(batch(soft_labels[order], mask[order]), None)
        torch.testing.assert_close(other.relevance, fused.relevance[order][:, order], rtol=0, atol=1e-9)
        torch.testing.assert_close(fused_labels(other), labels[order], rtol=0, atol=1e-9)

        unanswered = filled.fuse(batch(garbage, mask), None)
        assert torch.equal(unanswered.relevance, fused.relevance)
        assert torch.equal(fused_labels(unanswered), labels)


def test_on_samples_that_all_were_asked_the_others_do_not_matter():
    soft_labels = random_soft_labels(3, 5, 4)
    mask = torch.tensor([True, False, True, True, False]).expand(3, 5)
    masked, subset = KTpFL(), KTpFL()
    for _ in range(2):
        relevance = masked.relate(batch(soft_labels * mask.unsqueeze(2), mask))
        expected = subset.relate(batch(soft_labels[:, [0, 2, 3]]))
    torch.testing.assert_close(relevance, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("regularisation", [-0.1, math.nan, math.inf])
def test_a_regularisation_out_of_range_is_refused(regularisation):
    with pytest.raises(ValueError, match=f"regularisation={regularisation} must be finite and not negative"):
        KTpFL(regularisation)
