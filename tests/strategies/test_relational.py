import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfuse.components import build
from fedfuse.composition import compose
from fedfuse.knowledge import KnowledgeBatch
from fedfuse.objectives.kd import KD
from fedfuse.objectives.rkd import RKD
from strategies.relational import Relational

SAMPLES, PAIRS = 5, 10


def batch(relations, mask=None, soft_labels=None):
    """Knowledge of clients who answered the same rows with soft labels and relations; all rows if none are masked."""
    number = len(relations)
    if mask is None:
        mask = torch.ones(number, SAMPLES, dtype=torch.bool)
    if soft_labels is None:
        soft_labels = torch.full((number, mask.shape[1], 2), 0.5, dtype=relations.dtype)
    tensors = {
        "soft_labels": {"soft_labels": soft_labels, "mask": mask},
        "relations": {"relations": relations, "mask": mask},
    }
    return KnowledgeBatch(client_ids=tuple(range(number)), round=1, tensors=tensors)


def random_relations(number, pairs=PAIRS, seed=0):
    return 2 * torch.rand(number, pairs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fuse(knowledge):
    fused = Relational().fuse(knowledge, None)
    assert set(fused.common) == {"soft_labels", "relations"}
    assert fused.personal == {}
    return fused


def consensus(knowledge):
    relations = fuse(knowledge).common["relations"]
    assert relations["rows"].dtype == torch.int32
    return relations["relations"], relations["rows"].tolist()


def test_soft_labels_and_relations_are_sent_and_come_back():
    assert Relational.sends == Relational.returns == {"soft_labels", "relations"}
    assert Relational.needs == frozenset()
    assert not Relational.one_architecture
    assert not Relational.one_embedding_size
    assert Relational.space == "probability"


def test_clients_learn_from_both_by_default():
    objective = build(compose(["strategy=relational"]).objective, "objective")
    assert objective.needs == {"soft_labels", "relations"}
    assert [type(term) for term in objective.terms] == [KD, RKD]
    assert objective.weights == [1, 0.02]


def test_consensus_in_numbers():
    # Samples 1, 2 and 4 were asked for; the first client answered 1 and 2 only, and tells nothing of the other pairs.
    mask = torch.tensor([[False, True, True, False, False], [False, True, True, False, True]])
    relations, rows = consensus(batch(torch.tensor([[1.5, 0.0, 0.0], [0.5, 0.75, 1.25]]), mask))
    assert rows == [1, 2, 4]
    assert relations.tolist() == [1.0, 0.75, 1.25]


def test_a_pair_that_no_client_compared_is_as_far_apart_as_the_mean():
    mask = torch.tensor([[True, True, False, False, False], [False, True, True, False, False]])
    relations, rows = consensus(batch(torch.tensor([[0.25, 9.0, 9.0], [9.0, 9.0, 0.5]]), mask))
    assert rows == [0, 1, 2]
    assert relations.tolist() == [0.25, 1.0, 0.5]


def test_soft_labels_are_averaged_and_heard_alike():
    soft_labels = torch.tensor([[[0.9, 0.1]] * SAMPLES, [[0.3, 0.7]] * SAMPLES], dtype=torch.float64)
    fused = fuse(batch(random_relations(2), soft_labels=soft_labels))
    mean = torch.tensor([[0.6, 0.4]] * SAMPLES, dtype=torch.float64)
    torch.testing.assert_close(fused.common["soft_labels"]["soft_labels"], mean, rtol=0, atol=1e-12)
    assert fused.common["soft_labels"]["mask"].all()
    assert fused.relevance.tolist() == [[0.5, 0.5]] * 2


@pytest.mark.parametrize("number", [1, 2, 7])
def test_clients_that_agree_change_nothing(number):
    relations = random_relations(1)
    fused, rows = consensus(batch(relations.expand(number, PAIRS)))
    torch.testing.assert_close(fused, relations[0], rtol=1e-12, atol=0)
    assert rows == list(range(SAMPLES))


@pytest.mark.parametrize("samples", [0, 1])
def test_where_there_is_no_pair_nothing_is_related(samples):
    mask = torch.arange(SAMPLES).expand(3, SAMPLES) < samples
    relations, rows = consensus(batch(torch.empty(3, 0), mask))
    assert relations.shape == (0,)
    assert rows == list(range(samples))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), number=st.integers(1, 8))
def test_results_follow_the_clients_and_what_was_not_answered_counts_for_nothing(seed, number):
    random = torch.Generator().manual_seed(seed)
    mask = torch.rand(number, SAMPLES, generator=random) < 0.6
    rows = [row for row in range(SAMPLES) if mask[:, row].any()]
    pairs = [(i, j) for place, i in enumerate(rows) for j in rows[place + 1 :]]
    relations = random_relations(number, len(pairs), seed)
    fused, known = consensus(batch(relations, mask))
    assert known == rows
    for place, (i, j) in enumerate(pairs):
        told = relations[mask[:, i] & mask[:, j], place]
        assert fused[place].item() == pytest.approx(told.mean().item() if len(told) else 1)

    order = torch.randperm(number, generator=random)
    torch.testing.assert_close(consensus(batch(relations[order], mask[order]))[0], fused, rtol=0, atol=1e-12)

    knowledge = batch(relations, mask)
    garbage = torch.where(knowledge.related, relations, 1e12)
    torch.testing.assert_close(consensus(batch(garbage, mask))[0], fused, rtol=0, atol=0)


def test_what_comes_back_has_the_type_that_came_in():
    assert consensus(batch(random_relations(3).float()))[0].dtype == torch.float32
    assert consensus(batch(random_relations(3)))[0].dtype == torch.float64
