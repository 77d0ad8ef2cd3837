import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfuse.knowledge import KnowledgeBatch
from strategies.selective_sharing import SelectiveSharing


def batch(soft_labels, mask=None, client_ids=None):
    number, samples, _ = soft_labels.shape
    mask = torch.ones(number, samples, dtype=torch.bool) if mask is None else mask
    ids = tuple(range(number)) if client_ids is None else client_ids
    return KnowledgeBatch(ids, 1, {"soft_labels": {"soft_labels": soft_labels, "mask": mask}})


def random_soft_labels(*shape, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.softmax(2 * torch.randn(*shape, generator=random, dtype=torch.float64), dim=2)


def two_classes(*first):
    """One sample; of each client the probability of the first of two classes."""
    first = torch.tensor(first, dtype=torch.float64)
    return torch.stack([first, 1 - first], dim=1).unsqueeze(1)


def stacked(fused, name="soft_labels"):
    return torch.stack([own["soft_labels"][name] for own in fused.personal.values()])


def learners(fused):
    return stacked(fused, "mask")[:, 0].tolist()


def test_soft_labels_travel_both_ways():
    assert SelectiveSharing.sends == SelectiveSharing.returns == {"soft_labels"}
    assert SelectiveSharing.needs == frozenset()
    assert SelectiveSharing().space == "probability"


def test_both_gates_in_numbers():
    strategy = SelectiveSharing()
    # At first every answer that is not even counts: the mean of 0.9, 0.8 and 0.4 is 0.7, with a margin of 0.4.
    first = strategy.fuse(batch(two_classes(0.9, 0.8, 0.4, 0.5)), None)
    assert stacked(first)[:, 0, 0].tolist() == pytest.approx([0.7] * 4)
    assert learners(first) == [False, False, True, True]
    everybody = [1 / 3, 1 / 3, 1 / 3, 0]
    assert first.relevance.flatten().tolist() == pytest.approx([1, 0, 0, 0, 0, 1, 0, 0, *everybody, *everybody])
    # Now only margins above 0.4 count: those of 0.72 and 0.1, whose mean 0.41 has the margin 0.18.
    second = strategy.fuse(batch(two_classes(0.72, 0.1, 0.6, 0.55)), None)
    assert stacked(second)[:, 0, 0].tolist() == pytest.approx([0.41] * 4)
    assert learners(second) == [False, False, False, True]
    # Nobody is above it any more: it stays, and teaches who is less sure.
    third = strategy.fuse(batch(two_classes(0.58, 0.45, 0.5, 0.42)), None)
    assert stacked(third)[:, 0, 0].tolist() == pytest.approx([0.41] * 4)
    assert learners(third) == [True] * 4
    assert torch.equal(third.relevance, torch.eye(4, dtype=torch.float64))


def test_who_is_always_surest_learns_nothing():
    soft_labels = random_soft_labels(5, 20, 4)
    soft_labels[2] = torch.eye(4, dtype=torch.float64)[torch.arange(20) % 4]
    strategy = SelectiveSharing()
    for _ in range(3):
        assert not stacked(strategy.fuse(batch(soft_labels), None), "mask")[2].any()


def test_an_answer_that_does_not_count_changes_nothing():
    before = random_soft_labels(3, 8, 4)
    results = []
    for unsure in (torch.tensor([0.3, 0.3, 0.2, 0.2]), torch.tensor([0.2, 0.2, 0.3, 0.3])):
        strategy = SelectiveSharing()
        strategy.fuse(batch(before), None)
        now = torch.cat([random_soft_labels(2, 8, 4, seed=1), unsure.double().expand(1, 8, 4)])
        results.append(stacked(strategy.fuse(batch(now), None)))
    assert torch.equal(*results)


def test_samples_that_nobody_answered_are_not_learnt_from_though_there_is_a_consensus():
    strategy = SelectiveSharing()
    strategy.fuse(batch(random_soft_labels(3, 4, 5)), None)
    consensus = strategy.consensus
    mask = torch.tensor([[True, True, False, False]] * 3)
    even = torch.full((3, 4, 5), 0.2, dtype=torch.float64)
    fused = strategy.fuse(batch(even, mask), None)
    assert stacked(fused, "mask").tolist() == [[True, True, False, False]] * 3
    assert torch.equal(strategy.consensus, consensus)


@pytest.mark.parametrize("number", [1, 2, 7])
def test_clients_that_agree_change_nothing(number):
    soft_labels = random_soft_labels(1, 6, 4).expand(number, 6, 4)
    strategy = SelectiveSharing()
    for _ in range(2):
        fused = strategy.fuse(batch(soft_labels), None)
        torch.testing.assert_close(stacked(fused), soft_labels, rtol=0, atol=1e-12)


def test_state_survives_being_saved_and_loaded():
    strategy, other = SelectiveSharing(), SelectiveSharing()
    assert strategy.state_dict() == {"consensus": None}
    strategy.fuse(batch(random_soft_labels(3, 6, 4)), None)
    file = io.BytesIO()
    torch.save(strategy.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    following = batch(random_soft_labels(3, 6, 4, seed=1))
    mine, theirs = strategy.fuse(following, None), other.fuse(following, None)
    assert torch.equal(stacked(theirs), stacked(mine))
    assert torch.equal(stacked(theirs, "mask"), stacked(mine, "mask"))
    assert not torch.equal(stacked(SelectiveSharing().fuse(following, None), "mask"), stacked(mine, "mask"))


def test_what_was_saved_stays_as_it_is():
    strategy = SelectiveSharing()
    strategy.fuse(batch(two_classes(0.6, 0.7)), None)
    saved = strategy.state_dict()
    strategy.fuse(batch(two_classes(0.9, 0.9)), None)
    assert saved["consensus"].flatten().tolist() == pytest.approx([0.65, 0.35])


def test_every_client_gets_its_own_under_its_id_in_the_type_that_came_in():
    fused = SelectiveSharing().fuse(batch(random_soft_labels(3, 4, 5).float(), client_ids=(2, 5, 11)), None)
    assert fused.common is None
    assert list(fused.personal) == [2, 5, 11]
    assert stacked(fused).dtype == torch.float32


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), number=st.integers(1, 8))
def test_results_follow_the_clients_and_what_was_not_answered_counts_for_nothing(seed, number):
    random = torch.Generator().manual_seed(seed)
    rounds = []
    for round in range(3):
        mask = torch.rand(number, 6, generator=random) < 0.7
        rounds.append((random_soft_labels(number, 6, 4, seed=seed + round), mask))
    order = torch.randperm(number, generator=random)
    strategy, permuted, garbled = SelectiveSharing(), SelectiveSharing(), SelectiveSharing()
    for soft_labels, mask in rounds:
        blank = soft_labels * mask.unsqueeze(2)
        fused = strategy.fuse(batch(blank, mask), None)
        labels, known = stacked(fused), stacked(fused, "mask")
        torch.testing.assert_close(labels.sum(2), torch.ones(number, 6, dtype=torch.float64), rtol=0, atol=1e-12)
        torch.testing.assert_close(fused.relevance.sum(1), torch.ones(number).double(), rtol=0, atol=1e-12)
        assert (labels >= 0).all() and (fused.relevance >= 0).all()
        assert not (known & ~mask.any(0)).any()

        other = permuted.fuse(batch(blank[order], mask[order]), None)
        torch.testing.assert_close(stacked(other), labels[order], rtol=0, atol=1e-12)
        torch.testing.assert_close(other.relevance, fused.relevance[order][:, order], rtol=0, atol=1e-12)

        garbage = garbled.fuse(batch(torch.where(mask.unsqueeze(2), soft_labels, 1e6), mask), None)
        assert torch.equal(stacked(garbage), labels)
        assert torch.equal(stacked(garbage, "mask"), known)
