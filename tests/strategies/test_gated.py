import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfuse.knowledge import KnowledgeBatch
from strategies.gated import Gated


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


def stacked(fused, name="soft_labels"):
    return torch.stack([own["soft_labels"][name] for own in fused.personal.values()])


def test_soft_labels_travel_both_ways():
    assert Gated.sends == Gated.returns == {"soft_labels"}
    assert Gated.needs == frozenset()


def test_the_choice_in_numbers():
    # Of the second client the others' mean is (0.55, 0.45): surer than 0.52, less sure than 0.6.
    for second, expected, heard in ((0.6, 0.6, [0, 1, 0]), (0.52, 0.55, [0.5, 0, 0.5])):
        first_class = torch.tensor([0.9, second, 0.2], dtype=torch.float64)
        fused = Gated().fuse(batch(torch.stack([first_class, 1 - first_class], dim=1).unsqueeze(1)), None)
        assert stacked(fused)[:, 0, 0].tolist() == pytest.approx([0.9, expected, 0.2])
        assert fused.relevance.tolist() == [[1, 0, 0], heard, [0, 0, 1]]


def test_who_is_always_more_confident_gets_the_own_labels_back():
    soft_labels = random_soft_labels(5, 20, 4, size=0.5)
    soft_labels[2] = random_soft_labels(1, 20, 4, seed=1, size=100.0)[0]
    others = soft_labels[[0, 1, 3, 4]].mean(0)
    assert (soft_labels[2].amax(1) > others.amax(1)).all()
    fused = Gated().fuse(batch(soft_labels), None)
    assert torch.equal(stacked(fused)[2], soft_labels[2])
    assert fused.relevance[2].tolist() == [0, 0, 1, 0, 0]


def test_who_knows_nothing_gets_the_mean_of_the_others():
    soft_labels = random_soft_labels(4, 20, 5)
    soft_labels[1] = 0.2
    fused = Gated().fuse(batch(soft_labels), None)
    torch.testing.assert_close(stacked(fused)[1], soft_labels[[0, 2, 3]].mean(0), rtol=0, atol=1e-12)
    assert fused.relevance[1].tolist() == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3])


def test_equal_confidence_keeps_the_own_label():
    soft_labels = torch.tensor([[[0.75, 0.25]], [[0.25, 0.75]]], dtype=torch.float64)
    assert torch.equal(stacked(Gated().fuse(batch(soft_labels), None)), soft_labels)


def test_relevance_is_the_share_of_samples_on_which_one_listened():
    # The second client is surer on one sample of four.
    soft_labels = torch.tensor([[0.7, 0.7, 0.7, 0.7], [0.9, 0.6, 0.6, 0.6]], dtype=torch.float64)
    fused = Gated().fuse(batch(torch.stack([soft_labels, 1 - soft_labels], dim=2)), None)
    assert fused.relevance.tolist() == [[0.75, 0.25], [0.75, 0.25]]


def test_a_single_client_keeps_its_labels():
    soft_labels = random_soft_labels(1, 6, 4)
    fused = Gated().fuse(batch(soft_labels), None)
    assert torch.equal(stacked(fused), soft_labels)
    assert stacked(fused, "mask").all()
    assert fused.relevance.tolist() == [[1.0]]


def test_nobody_is_surer_than_the_only_one_who_answered():
    # Rounding, or a protector, may leave a label a little short of one.
    soft_labels = torch.full((2, 3, 4), 0.2499, dtype=torch.float64)
    mask = torch.tensor([[True] * 3, [False] * 3])
    fused = Gated().fuse(batch(soft_labels * mask.unsqueeze(2), mask), None)
    assert torch.equal(stacked(fused)[0], soft_labels[0])
    assert fused.relevance.tolist() == [[1, 0], [1, 0]]


def test_clients_that_agree_change_nothing():
    soft_labels = random_soft_labels(1, 6, 4).expand(7, 6, 4)
    torch.testing.assert_close(stacked(Gated().fuse(batch(soft_labels), None)), soft_labels, rtol=0, atol=1e-12)


def test_who_did_not_answer_gets_the_others_and_who_answered_alone_keeps_the_own():
    mask = torch.tensor([[True, True, False], [True, False, False], [True, False, False]])
    soft_labels = random_soft_labels(3, 3, 4)
    fused = Gated().fuse(batch(soft_labels * mask.unsqueeze(2), mask), None)
    assert stacked(fused, "mask").tolist() == [[True, True, False]] * 3
    for client in range(3):
        torch.testing.assert_close(stacked(fused)[client, 1], soft_labels[0, 1])
    assert torch.equal(stacked(fused)[:, 2], torch.full((3, 4), 0.25, dtype=torch.float64))


def test_every_client_gets_its_own_under_its_id_in_the_type_that_came_in():
    fused = Gated().fuse(batch(random_soft_labels(3, 4, 5).float(), client_ids=(2, 5, 11)), None)
    assert fused.common is None
    assert list(fused.personal) == [2, 5, 11]
    assert stacked(fused).dtype == torch.float32


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), number=st.integers(1, 8))
def test_results_follow_the_clients_and_what_was_not_answered_counts_for_nothing(seed, number):
    random = torch.Generator().manual_seed(seed)
    soft_labels = random_soft_labels(number, 6, 4, seed=seed)
    mask = torch.rand(number, 6, generator=random) < 0.7
    mask[:, 0] = True
    fused = Gated().fuse(batch(soft_labels * mask.unsqueeze(2), mask), None)
    labels, known = stacked(fused), stacked(fused, "mask")
    assert torch.equal(known, mask.any(0).expand(number, 6))
    assert (labels >= 0).all()
    torch.testing.assert_close(labels.sum(2), torch.ones(number, 6, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (labels.amax(2) >= soft_labels.amax(2) - 1e-12)[mask].all()
    torch.testing.assert_close(fused.relevance.sum(1), torch.ones(number, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (fused.relevance >= 0).all()

    order = torch.randperm(number, generator=random)
    permuted = Gated().fuse(batch((soft_labels * mask.unsqueeze(2))[order], mask[order]), None)
    torch.testing.assert_close(stacked(permuted), labels[order], rtol=0, atol=1e-12)
    torch.testing.assert_close(permuted.relevance, fused.relevance[order][:, order], rtol=0, atol=1e-12)

    garbage = Gated().fuse(batch(torch.where(mask.unsqueeze(2), soft_labels, 1e6), mask), None)
    assert torch.equal(stacked(garbage), labels)
    assert torch.equal(garbage.relevance, fused.relevance)
