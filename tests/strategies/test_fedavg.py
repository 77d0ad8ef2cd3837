from functools import partial

import pytest
import torch

from fedfuse.knowledge import KnowledgeBatch, WeightStack
from fedfuse.models.architecture import describe
from fedfuse.models.mlp import MLP
from fedfuse.server import Server
from fedfuse.transfer.all import AllRows
from strategies.fedavg import FedAvg


def fuse(counts, **weights):
    """Fuse stacked weights of clients with so many examples each; return the fused knowledge."""
    stack = WeightStack("mlp", torch.arange(len(counts)), weights)
    knowledge = KnowledgeBatch(
        client_ids=tuple(range(len(counts))),
        round=1,
        tensors={},
        weights=(stack,),
        num_examples=torch.tensor(counts, dtype=torch.float64),
    )
    return FedAvg().fuse(knowledge, None)


def fused_weights(counts, **weights):
    return fuse(counts, **weights).common["weights"]


def make_server(*hidden):
    builders = [partial(MLP, input_shape=(3,), num_classes=2, hidden=(width,)) for width in hidden]
    architectures = [describe(f"mlp {number}", build, (3,)) for number, build in enumerate(builders)]
    return Server(
        seed=4,
        transfer_inputs=torch.zeros(5, 3),
        transfer_digest="digest",
        class_names=("a", "b"),
        architectures={architecture.signature: architecture for architecture in architectures},
        dtype=torch.float64,
        transfer_rows=AllRows(),
    )


def test_weights_travel_both_ways_and_examples_are_counted():
    assert FedAvg.sends == FedAvg.returns == {"weights"}
    assert FedAvg.needs == {"num_examples"}
    assert FedAvg.one_architecture


def test_mean_in_numbers():
    weights = fused_weights([1, 3], bias=torch.tensor([[0.0, 8.0], [4.0, -4.0]]), scale=torch.tensor([10.0, 30.0]))
    assert weights["bias"].tolist() == [3.0, -1.0]
    assert weights["scale"].tolist() == 25.0
    assert list(weights) == ["bias", "scale"]


def test_mean_is_that_of_all_examples_pooled():
    random = torch.Generator().manual_seed(0)
    stacked, counts = torch.randn(4, 2, 3, generator=random, dtype=torch.float64), [5, 1, 7, 2]
    pooled = stacked.repeat_interleave(torch.tensor(counts), dim=0).mean(0)
    torch.testing.assert_close(fused_weights(counts, w=stacked)["w"], pooled, rtol=0, atol=1e-14)


def test_equal_clients_count_alike_and_one_client_keeps_its_weights():
    stacked = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fused_weights([20, 20, 20], w=stacked)["w"], stacked.mean(0))
    assert torch.equal(fused_weights([20], w=stacked[:1])["w"], stacked[0])


def test_order_of_clients_does_not_matter():
    stacked = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    order = [2, 0, 1]
    counts = [3, 5, 9]
    permuted = fused_weights([counts[position] for position in order], w=stacked[order])["w"]
    torch.testing.assert_close(permuted, fused_weights(counts, w=stacked)["w"], rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_floating_weights_keep_their_precision(dtype):
    weights = fused_weights([1, 1], w=torch.tensor([[1.0], [2.0]], dtype=dtype))
    assert weights["w"].dtype == dtype
    assert weights["w"].tolist() == [1.5]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_integer_buffers_keep_their_type_and_are_rounded(dtype):
    weights = fused_weights(
        [1, 3], steps=torch.tensor([10, 20], dtype=dtype), seen=torch.tensor([[1], [4]], dtype=dtype)
    )
    # 17.5 to the even neighbour, 3.25 down.
    assert weights["steps"].dtype == dtype
    assert weights["steps"].tolist() == 18
    assert weights["seen"].tolist() == [3]


@pytest.mark.parametrize("number", range(1, 12))
def test_integers_that_all_clients_agree_on_stay_as_they_are(number):
    values = torch.tensor([1, 5, 7, 100]).expand(number, 4)
    assert fused_weights([1] * number, steps=values)["steps"].tolist() == [1, 5, 7, 100]


def test_everybody_gets_the_same_and_listened_by_number_of_examples():
    fused = fuse([1, 3], w=torch.zeros(2, 2))
    assert fused.personal == {}
    assert fused.relevance.tolist() == [[0.25, 0.75], [0.25, 0.75]]


def test_everybody_starts_from_the_weights_that_the_server_builds():
    server = make_server(6)
    fused = FedAvg().initial(server)
    expected = server.build(next(iter(server.architectures))).state_dict()
    initial = fused.common["weights"]
    assert fused.personal == {}
    assert list(initial) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(initial[name], tensor)
        assert initial[name].dtype == torch.float64
        assert not initial[name].requires_grad


def test_more_than_one_architecture_has_no_common_start():
    with pytest.raises(ValueError, match="too many values"):
        FedAvg().initial(make_server(6, 7))
