import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedfuse.knowledge import KnowledgeBatch
from strategies.fedhkd import FedHKD


def fuse(prototypes, class_logits, mask, logits_mask=None):
    logits_mask = mask if logits_mask is None else logits_mask
    tensors = {
        "prototypes": {"prototypes": prototypes, "mask": mask},
        "class_logits": {"class_logits": class_logits, "mask": logits_mask},
    }
    fused = FedHKD().fuse(KnowledgeBatch(tuple(range(len(mask))), 1, tensors), None)
    assert fused.personal == {}
    assert set(fused.common) == {"prototypes", "class_logits"}
    return fused.common


def random(number=5, classes=3, width=4, seed=0):
    random = torch.Generator().manual_seed(seed)
    prototypes = torch.randn(number, classes, width, generator=random, dtype=torch.float64)
    class_logits = torch.randn(number, classes, classes, generator=random, dtype=torch.float64)
    return prototypes, class_logits, torch.rand(number, classes, generator=random) < 0.6


def test_features_and_logits_travel_both_ways_and_features_must_have_one_width():
    assert FedHKD.sends == FedHKD.returns == {"prototypes", "class_logits"}
    assert FedHKD.needs == frozenset()
    assert FedHKD.one_embedding_size


def test_each_class_is_averaged_over_those_that_have_it():
    mask = torch.tensor([[True, True], [True, False], [False, False]])
    prototypes = torch.tensor([[[1.0], [2.0]], [[3.0], [0.0]], [[0.0], [0.0]]])
    class_logits = torch.tensor([[[4.0, 0.0], [1.0, 5.0]], [[8.0, -2.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    common = fuse(prototypes, class_logits, mask)
    assert common["prototypes"]["prototypes"].tolist() == [[2], [2]]
    assert common["class_logits"]["class_logits"].tolist() == [[6, -1], [1, 5]]
    assert common["prototypes"]["mask"].tolist() == common["class_logits"]["mask"].tolist() == [True, True]


def test_features_and_logits_have_masks_of_their_own():
    prototypes, class_logits, mask = random()
    mask[:, 0], mask[:, 1] = False, True
    common = fuse(prototypes, class_logits, mask, ~mask)
    assert common["prototypes"]["mask"].tolist()[:2] == [False, True]
    assert common["class_logits"]["mask"].tolist()[:2] == [True, False]
    assert (common["prototypes"]["prototypes"][0] == 0).all()
    assert torch.allclose(common["class_logits"]["class_logits"][0], class_logits[:, 0].mean(0))


@pytest.mark.parametrize("number", [1, 2, 5])
def test_identical_clients_get_back_what_they_sent(number):
    prototypes, class_logits, _ = random(1)
    mask = torch.tensor([[True, False, True]]).repeat(number, 1)
    common = fuse(prototypes.repeat(number, 1, 1), class_logits.repeat(number, 1, 1), mask)
    known = mask[0]
    torch.testing.assert_close(common["prototypes"]["prototypes"][known], prototypes[0, known])
    torch.testing.assert_close(common["class_logits"]["class_logits"][known], class_logits[0, known])
    assert common["prototypes"]["mask"].tolist() == [True, False, True]


@given(st.integers(0, 10_000))
def test_order_and_what_clients_lack_do_not_matter_and_the_type_stays(seed):
    prototypes, class_logits, mask = random(seed=seed)
    expected = fuse(prototypes, class_logits, mask)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    garbage = [torch.where(mask.unsqueeze(2), tensor, 1e12)[order] for tensor in (prototypes, class_logits)]
    other = fuse(*garbage, mask[order])
    for carrier, tensors in expected.items():
        for name, tensor in tensors.items():
            torch.testing.assert_close(other[carrier][name], tensor, rtol=0, atol=1e-12)
    assert fuse(prototypes.float(), class_logits.float(), mask)["prototypes"]["prototypes"].dtype == torch.float32
