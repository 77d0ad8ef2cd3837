import pytest
import torch

from fedfuse.knowledge import KnowledgeBatch
from strategies.fedmd import FedMD

SPACES = ("logit", "probability")


def batch(soft_labels, mask=None):
    number, samples, _ = soft_labels.shape
    mask = torch.ones(number, samples, dtype=torch.bool) if mask is None else mask
    return KnowledgeBatch(
        client_ids=tuple(range(number)), round=1, tensors={"soft_labels": {"soft_labels": soft_labels, "mask": mask}}
    )


def random_logits(*shape, seed=0):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def consensus(soft_labels, space="logit"):
    return FedMD(space).fuse(batch(soft_labels), None).common["soft_labels"]["soft_labels"]


def test_soft_labels_travel_both_ways_and_logits_are_averaged_as_in_the_paper():
    assert FedMD.sends == FedMD.returns == {"soft_labels"}
    assert FedMD.needs == frozenset()
    assert FedMD().space == "logit"


def test_consensus_is_the_softmax_of_the_mean_of_the_logits():
    logits = random_logits(4, 6, 5) + 20 * random_logits(4, 6, 1, seed=1)
    expected = torch.softmax(logits.mean(0), dim=1)
    torch.testing.assert_close(consensus(torch.softmax(logits, dim=2)), expected, rtol=0, atol=1e-9)


def test_consensus_in_numbers():
    soft_labels = torch.tensor([[[0.8, 0.2]], [[0.5, 0.5]]], dtype=torch.float64)
    assert consensus(soft_labels)[0].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert consensus(soft_labels, "probability")[0].tolist() == pytest.approx([0.65, 0.35])


def test_in_the_space_of_probabilities_consensus_is_their_mean():
    soft_labels = torch.softmax(random_logits(4, 6, 5), dim=2)
    torch.testing.assert_close(consensus(soft_labels, "probability"), soft_labels.mean(0), rtol=0, atol=1e-14)


@pytest.mark.parametrize("space", SPACES)
def test_one_client_gets_its_own_labels(space):
    soft_labels = torch.softmax(random_logits(1, 6, 5), dim=2)
    torch.testing.assert_close(consensus(soft_labels, space), soft_labels[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("space", SPACES)
def test_clients_that_agree_change_nothing(space):
    soft_labels = torch.softmax(random_logits(1, 6, 5), dim=2)
    torch.testing.assert_close(consensus(soft_labels.expand(7, 6, 5), space), soft_labels[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("space", SPACES)
def test_order_of_clients_does_not_matter(space):
    soft_labels = torch.softmax(random_logits(5, 6, 4), dim=2)
    permuted = consensus(soft_labels[[3, 0, 4, 1, 2]], space)
    torch.testing.assert_close(permuted, consensus(soft_labels, space), rtol=0, atol=1e-14)


@pytest.mark.parametrize("space", SPACES)
def test_only_those_who_answered_count_and_rows_without_an_answer_carry_nothing(space):
    mask = torch.tensor([[True, True, False], [True, False, False]])
    soft_labels = torch.softmax(random_logits(2, 3, 4), dim=2) * mask.unsqueeze(2)
    fused = FedMD(space).fuse(batch(soft_labels, mask), None)
    tensors = fused.common["soft_labels"]
    assert tensors["mask"].tolist() == [True, True, False]
    torch.testing.assert_close(tensors["soft_labels"][0], consensus(soft_labels[:, :1], space)[0])
    torch.testing.assert_close(tensors["soft_labels"][1], soft_labels[0, 1])
    # Who answered twice as often was listened to twice as much.
    torch.testing.assert_close(fused.relevance, torch.tensor([[2 / 3, 1 / 3]] * 2, dtype=torch.float64))


def test_everybody_gets_the_same_and_listened_to_all_alike():
    fused = FedMD().fuse(batch(torch.softmax(random_logits(4, 6, 5), dim=2)), None)
    assert fused.personal == {}
    assert fused.relevance.tolist() == [[0.25] * 4] * 4


@pytest.mark.parametrize("space", ["log_probability", "logits", ""])
def test_another_space_is_refused(space):
    with pytest.raises(ValueError, match=f"space='{space}' must be logit or probability"):
        FedMD(space)
