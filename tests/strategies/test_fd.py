import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfuse.knowledge import KnowledgeBatch
from strategies.fd import FD


def fuse(class_logits, mask, client_ids=None):
    client_ids = tuple(range(len(mask))) if client_ids is None else client_ids
    tensors = {"class_logits": {"class_logits": class_logits, "mask": mask}}
    fused = FD().fuse(KnowledgeBatch(client_ids, 1, tensors), None)
    assert fused.common is None
    assert tuple(fused.personal) == client_ids
    received = [own["class_logits"] for own in fused.personal.values()]
    return tuple(torch.stack([own[name] for own in received]) for name in ("class_logits", "mask"))


# Three clients, two classes: all have the first, one the second.
CLASS_LOGITS = torch.tensor([[[3.0, 0.0], [0.0, 5.0]], [[6.0, -3.0], [0.0, 0.0]], [[9.0, 3.0], [0.0, 0.0]]])
MASK = torch.tensor([[True, True], [True, False], [True, False]])


def test_class_logits_travel_both_ways_between_any_architectures():
    assert FD.sends == FD.returns == {"class_logits"}
    assert FD.needs == frozenset()
    assert not FD.one_architecture
    assert not FD.one_embedding_size


def test_each_client_gets_the_mean_of_the_others():
    fused, mask = fuse(CLASS_LOGITS, MASK)
    assert fused[:, 0].tolist() == [[7.5, 0.0], [6.0, 1.5], [4.5, -1.5]]
    assert fused[1:, 1].tolist() == [[0.0, 5.0]] * 2
    assert mask.tolist() == [[True, False], [True, True], [True, True]]
    assert fused[0, 1].tolist() == [0, 0]


def test_two_clients_with_identical_tables_get_that_table():
    table = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    fused, mask = fuse(table.expand(2, 4, 4), torch.ones(2, 4, dtype=torch.bool))
    assert fused.dtype == torch.float32
    torch.testing.assert_close(fused, table.expand(2, 4, 4), rtol=0, atol=1e-12)
    assert mask.all()


def test_a_client_alone_gets_nothing():
    fused, mask = fuse(CLASS_LOGITS[:1], MASK[:1])
    assert fused.tolist() == [[[0, 0], [0, 0]]]
    assert mask.tolist() == [[False, False]]


def test_very_large_logits_of_one_client_leave_no_trace_in_its_own():
    logits = CLASS_LOGITS.clone()
    logits[0] *= 1e9
    fused, _ = fuse(logits, MASK, client_ids=(2, 5, 9))
    torch.testing.assert_close(fused[0, 0], torch.tensor([7.5, 0.0]), rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), number=st.integers(1, 8))
def test_results_follow_the_clients_and_what_they_lack_counts_for_nothing(seed, number):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(number, 5, 5, generator=random, dtype=torch.float64)
    holds = torch.rand(number, 5, generator=random) < 0.6
    fused, mask = fuse(logits, holds)
    for client in range(number):
        for label in range(5):
            others = [other for other in range(number) if other != client and holds[other, label]]
            assert bool(mask[client, label]) == bool(others)
            expected = logits[others, label].mean(0) if others else torch.zeros(5, dtype=torch.float64)
            torch.testing.assert_close(fused[client, label], expected, rtol=0, atol=1e-12)
    order = torch.randperm(number, generator=random)
    permuted, permuted_mask = fuse(logits[order], holds[order])
    torch.testing.assert_close(permuted, fused[order], rtol=0, atol=1e-12)
    assert torch.equal(permuted_mask, mask[order])
    garbage, garbage_mask = fuse(torch.where(holds.unsqueeze(2), logits, 1e12), holds)
    assert torch.equal(garbage, fused)
    assert torch.equal(garbage_mask, mask)
