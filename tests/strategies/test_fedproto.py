import pytest
import torch

from fedfuse.knowledge import KnowledgeBatch
from strategies.fedproto import FedProto


def fuse(prototypes, mask):
    prototypes, mask = torch.as_tensor(prototypes), torch.as_tensor(mask)
    knowledge = KnowledgeBatch(
        client_ids=tuple(range(len(mask))),
        round=1,
        tensors={"prototypes": {"prototypes": prototypes, "mask": mask}},
    )
    return FedProto().fuse(knowledge, None)


# Two clients, four classes: both have the first, one each has the second and the third, nobody has the last.
PROTOTYPES = torch.tensor(
    [
        [[1.0, 2.0], [5.0, 6.0], [0.0, 0.0], [0.0, 0.0]],
        [[3.0, 6.0], [0.0, 0.0], [-1.0, 7.0], [0.0, 0.0]],
    ]
)
MASK = torch.tensor([[True, True, False, False], [True, False, True, False]])


def test_prototypes_travel_both_ways_and_features_must_have_one_width():
    assert FedProto.sends == FedProto.returns == {"prototypes"}
    assert FedProto.needs == frozenset()
    assert FedProto.one_embedding_size
    assert not FedProto.one_architecture


def test_a_class_has_the_mean_of_the_clients_that_own_it():
    prototypes = fuse(PROTOTYPES, MASK).common["prototypes"]["prototypes"]
    assert prototypes[0].tolist() == [2.0, 4.0]


def test_a_class_that_one_client_owns_has_its_mean():
    prototypes = fuse(PROTOTYPES, MASK).common["prototypes"]["prototypes"]
    assert prototypes[1].tolist() == [5.0, 6.0]
    assert prototypes[2].tolist() == [-1.0, 7.0]


def test_a_class_that_nobody_owns_is_absent():
    tensors = fuse(PROTOTYPES, MASK).common["prototypes"]
    assert tensors["mask"].dtype == torch.bool
    assert tensors["mask"].tolist() == [True, True, True, False]
    assert torch.isfinite(tensors["prototypes"]).all()


def test_what_stands_in_for_a_class_that_a_client_lacks_does_not_matter():
    garbage = PROTOTYPES.clone()
    garbage[~MASK] = 1e6
    expected, mask = fuse(PROTOTYPES, MASK).common["prototypes"].values()
    prototypes, other_mask = fuse(garbage, MASK).common["prototypes"].values()
    assert torch.equal(prototypes[mask], expected[mask])
    assert torch.equal(mask, other_mask)


def test_everybody_gets_the_same():
    fused = fuse(PROTOTYPES, MASK)
    assert set(fused.common) == {"prototypes"}
    assert set(fused.common["prototypes"]) == {"prototypes", "mask"}
    assert fused.personal == {}


def test_mean_counts_every_owner_alike_in_any_order():
    random = torch.Generator().manual_seed(0)
    prototypes = torch.randn(7, 5, 3, generator=random, dtype=torch.float64)
    mask = torch.rand(7, 5, generator=random) < 0.6
    result = fuse(prototypes, mask).common["prototypes"]["prototypes"]
    assert result.dtype == torch.float64
    for label in range(5):
        expected = prototypes[mask[:, label], label].mean(0)
        assert result[label].tolist() == pytest.approx(expected.tolist())
    order = torch.randperm(7, generator=random)
    permuted = fuse(prototypes[order], mask[order]).common["prototypes"]["prototypes"]
    torch.testing.assert_close(permuted, result, rtol=0, atol=1e-14)


def test_one_client_gets_its_own_prototypes():
    tensors = fuse(PROTOTYPES[:1], MASK[:1]).common["prototypes"]
    assert torch.equal(tensors["prototypes"], PROTOTYPES[0])
    assert torch.equal(tensors["mask"], MASK[0])
