import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfuse.knowledge import KnowledgeBatch
from strategies.comet import COMET


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


def binary(*first_class):
    """Soft labels ``[N, 1, 2]`` on one sample from the probabilities of the first class."""
    first = torch.tensor(first_class, dtype=torch.float64)
    return torch.stack([first, 1 - first], dim=1).unsqueeze(1)


def test_soft_labels_travel_both_ways_and_there_are_two_clusters():
    assert COMET.sends == COMET.returns == {"soft_labels"}
    assert COMET.needs == frozenset()
    assert (COMET().clusters, COMET().iterations) == (2, 10)


def test_one_cluster_gives_the_plain_mean():
    soft_labels = random_soft_labels(6, 5, 4)
    fused = COMET(clusters=1).fuse(batch(soft_labels), None)
    torch.testing.assert_close(stacked(fused), soft_labels.mean(0).expand(6, 5, 4), rtol=0, atol=1e-14)
    torch.testing.assert_close(fused.relevance, torch.full((6, 6), 1 / 6, dtype=torch.float64))


def test_two_groups_in_numbers():
    fused = COMET().fuse(batch(binary(0.9, 0.1, 0.8, 0.3, 0.7)), None)
    assert stacked(fused)[:, 0, 0].tolist() == pytest.approx([0.8, 0.2, 0.8, 0.2, 0.8])
    third, half = pytest.approx(1 / 3), pytest.approx(1 / 2)
    assert fused.relevance[0].tolist() == [third, 0, third, 0, third]
    assert fused.relevance[1].tolist() == [0, half, 0, half, 0]


@pytest.mark.parametrize("size", [1, 4])
def test_well_separated_groups_get_their_own_means_and_groups_differ_from_sample_to_sample(size):
    centres = torch.eye(3, dtype=torch.float64)
    groups = torch.tensor([[0, 1, 2], [1, 1, 2], [0, 0, 2], [1, 0, 1]]).repeat(size, 1)
    soft_labels = 0.8 * centres[groups] + 0.2 * random_soft_labels(len(groups), 3, 3)
    fused = stacked(COMET().fuse(batch(soft_labels), None))
    for sample in range(3):
        for group in groups[:, sample].unique():
            members = groups[:, sample] == group
            expected = soft_labels[members, sample].mean(0).expand(int(members.sum()), 3)
            torch.testing.assert_close(fused[members, sample], expected, rtol=0, atol=1e-12)


def test_clusters_start_far_apart_and_then_move():
    # The first centroids are 0, the farthest from the mean, and 1. At 0.46 the first is nearer, until the two have
    # moved to 0.23 and 0.6867.
    soft_labels = batch(binary(1.0, 0.52, 0.54, 0.0, 0.46))
    first = stacked(COMET(iterations=1).fuse(soft_labels, None))[:, 0, 0]
    assert first.tolist() == pytest.approx([2.06 / 3, 2.06 / 3, 2.06 / 3, 0.23, 0.23])
    last = stacked(COMET().fuse(soft_labels, None))[:, 0, 0]
    assert last.tolist() == pytest.approx([0.63, 0.63, 0.63, 0.0, 0.63])


def test_as_many_clusters_as_clients_give_everybody_the_own_labels():
    soft_labels = random_soft_labels(3, 6, 4)
    for clusters in (3, 5):
        fused = COMET(clusters).fuse(batch(soft_labels), None)
        torch.testing.assert_close(stacked(fused), soft_labels, rtol=0, atol=1e-14)
        torch.testing.assert_close(fused.relevance, torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("number", [1, 2, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clients_that_agree_change_nothing(number, dtype):
    soft_labels = random_soft_labels(1, 6, 4).to(dtype).expand(number, 6, 4)
    fused = stacked(COMET().fuse(batch(soft_labels), None))
    assert fused.dtype == dtype
    torch.testing.assert_close(fused, soft_labels, rtol=0, atol=10 * torch.finfo(dtype).eps)


def test_clients_that_nearly_agree_are_told_apart_in_single_precision():
    soft_labels = binary(0.9 + 1e-5, 0.9 + 2e-5, 0.9 - 1e-5, 0.9 - 2e-5).float()
    relevance = COMET().fuse(batch(soft_labels), None).relevance
    assert relevance.tolist() == [[0.5, 0.5, 0, 0]] * 2 + [[0, 0, 0.5, 0.5]] * 2


def test_who_did_not_answer_gets_the_mean_of_all_who_did():
    mask = torch.tensor([[True, True], [True, False], [True, False], [False, False]])
    soft_labels = binary(0.9, 0.2, 0.1, 0.0).expand(4, 2, 2)
    fused = COMET().fuse(batch(soft_labels * mask.unsqueeze(2), mask), None)
    assert stacked(fused)[:, 0, 0].tolist() == pytest.approx([0.9, 0.15, 0.15, 0.4])
    assert stacked(fused)[:, 1, 0].tolist() == pytest.approx([0.9] * 4)
    assert fused.relevance[3].tolist() == pytest.approx([(1 / 3 + 1) / 2, 1 / 6, 1 / 6, 0])


def test_who_did_not_answer_starts_no_cluster():
    mask = torch.tensor([[True], [True], [False]])
    fused = COMET(iterations=1).fuse(batch(binary(0.9, 0.8, 0.5) * mask.unsqueeze(2), mask), None)
    assert stacked(fused)[:, 0, 0].tolist() == pytest.approx([0.9, 0.8, 0.85])


def test_a_sample_that_nobody_answered_is_not_learnt_from():
    mask = torch.tensor([[True, False, True], [True, False, False]])
    fused = COMET().fuse(batch(random_soft_labels(2, 3, 4) * mask.unsqueeze(2), mask), None)
    assert stacked(fused, "mask").tolist() == [[True, False, True]] * 2
    assert torch.equal(stacked(fused)[:, 1], torch.full((2, 4), 0.25, dtype=torch.float64))


def test_every_client_gets_its_own_under_its_id():
    fused = COMET().fuse(batch(random_soft_labels(3, 4, 5), client_ids=(2, 5, 11)), None)
    assert fused.common is None
    assert list(fused.personal) == [2, 5, 11]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), number=st.integers(1, 9), clusters=st.integers(1, 4))
def test_results_follow_the_clients_and_what_was_not_answered_counts_for_nothing(seed, number, clusters):
    random = torch.Generator().manual_seed(seed)
    mask = torch.rand(number, 6, generator=random) < 0.7
    mask[:, 0] = True
    drawn = random_soft_labels(number, 6, 4, seed=seed)
    soft_labels = drawn * mask.unsqueeze(2)
    fused = COMET(clusters).fuse(batch(soft_labels, mask), None)
    labels = stacked(fused)
    assert (labels >= 0).all()
    torch.testing.assert_close(labels.sum(2), torch.ones(number, 6, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (fused.relevance >= 0).all()
    torch.testing.assert_close(fused.relevance.sum(1), torch.ones(number, dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.equal(stacked(fused, "mask"), mask.any(0).expand(number, 6))

    # However labels are clustered, the mean over those who answered stays.
    answered = mask.unsqueeze(2)
    torch.testing.assert_close((labels * answered).sum(0), soft_labels.sum(0), rtol=0, atol=1e-12)
    # K-means has ended: no client is nearer to the centroid of another cluster.
    for sample in range(6):
        own, centroids = drawn[mask[:, sample], sample], labels[mask[:, sample], sample]
        if len(own):
            distance = torch.cdist(own, centroids)
            assert (distance.diagonal() <= distance.amin(1) + 1e-9).all()

    order = torch.randperm(number, generator=random)
    permuted = COMET(clusters).fuse(batch(soft_labels[order], mask[order]), None)
    torch.testing.assert_close(stacked(permuted), labels[order], rtol=0, atol=1e-12)
    torch.testing.assert_close(permuted.relevance, fused.relevance[order][:, order], rtol=0, atol=1e-12)

    garbage = COMET(clusters).fuse(batch(torch.where(answered, drawn, 1e6), mask), None)
    assert torch.equal(stacked(garbage), labels)
    assert torch.equal(garbage.relevance, fused.relevance)


@pytest.mark.parametrize("name", ["clusters", "iterations"])
@pytest.mark.parametrize("value", [0, -2])
def test_a_number_below_one_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}={value} must be 1 or above"):
        COMET(**{name: value})
