import math
from functools import partial

import pytest
import torch

from fedfuse.knowledge import KnowledgeBatch
from fedfuse.models.architecture import describe
from fedfuse.models.mlp import MLP
from fedfuse.server import Server
from fedfuse.transfer.all import AllRows
from strategies.fedgen import FedGen, _sameness

WIDTH = 6


@pytest.fixture(scope="module")
def server():
    architecture = describe("mlp", partial(MLP, input_shape=(3,), num_classes=3, hidden=(4,)), (3,))
    return Server(
        seed=4,
        transfer_inputs=torch.zeros(5, 3),
        transfer_digest="digest",
        class_names=("a", "b", "c"),
        architectures={architecture.signature: architecture},
        dtype=torch.float64,
        transfer_rows=AllRows(),
    )


def heads(number=4, spread=0.3, seed=0):
    """Heads of three classes that agree up to some spread."""
    random = torch.Generator().manual_seed(seed)
    common = torch.randn(1, 3, WIDTH, generator=random, dtype=torch.float64)
    weight = common + spread * torch.randn(number, 3, WIDTH, generator=random, dtype=torch.float64)
    return {"weight": weight, "bias": spread * torch.randn(number, 3, generator=random, dtype=torch.float64)}


def batch(own, round=1, label_counts=None):
    number = len(own["bias"])
    counts = None if label_counts is None else torch.tensor(label_counts, dtype=torch.float64)
    return KnowledgeBatch(tuple(range(number)), round, {"head": own}, label_counts=counts)


def fuse(strategy, server, own, round=1, label_counts=None):
    fused = strategy.fuse(batch(own, round, label_counts), server)
    assert fused.personal == {}
    return fused.common["generated"]["features"], fused.common["generated"]["labels"]


def right(own, features, labels):
    """Which share of the features each client's head gives their label to."""
    logits = torch.einsum("bd,ncd->nbc", features, own["weight"]) + own["bias"].unsqueeze(1)
    return (logits.argmax(2) == labels).double().mean(1)


def test_heads_travel_up_and_features_down():
    assert (FedGen.sends, FedGen.returns) == ({"head"}, {"generated"})
    assert FedGen.one_embedding_size
    assert not FedGen.one_architecture
    assert FedGen().needs == frozenset()
    assert FedGen(label_counts=True).needs == {"label_counts"}
    assert FedGen.needs == frozenset()


def test_every_head_recognises_what_is_generated_for_every_class(server):
    own = heads()
    features, labels = fuse(FedGen(steps=300, samples=90), server, own)
    assert features.shape == (90, WIDTH)
    assert torch.bincount(labels).tolist() == [30, 30, 30]
    assert right(own, features, labels).min() > 0.95
    untrained, labels = fuse(FedGen(steps=1, lr=1e-12), server, own)
    assert right(own, untrained, labels).max() < 0.7


def test_samples_are_shared_out_evenly_over_the_classes(server):
    _, labels = fuse(FedGen(steps=1, samples=8), server, heads())
    assert torch.bincount(labels).tolist() == [3, 3, 2]


def test_label_counts_decide_whom_a_class_is_learnt_from(server):
    own = heads(2)
    # The second client calls the classes by each other's names.
    own["weight"][1], own["bias"][1] = own["weight"][0].roll(1, 0), own["bias"][0].roll(1, 0)
    counts = [[9, 9, 9], [0, 0, 0]]
    features, labels = fuse(FedGen(steps=300, label_counts=True), server, own, label_counts=counts)
    assert right(own, features, labels).tolist() == pytest.approx([1, 0], abs=0.05)
    features, labels = fuse(FedGen(steps=300, label_counts=True), server, own, label_counts=counts[::-1])
    assert right(own, features, labels).tolist() == pytest.approx([0, 1], abs=0.05)


def test_with_label_counts_nothing_is_generated_for_a_class_that_nobody_has(server):
    counts = [[5, 0, 1], [3, 0, 0], [1, 0, 0], [1, 0, 4]]
    _, labels = fuse(FedGen(steps=2, samples=10, label_counts=True), server, heads(), label_counts=counts)
    assert torch.bincount(labels, minlength=3).tolist() == [5, 0, 5]


def test_equal_label_counts_are_as_good_as_none(server):
    own = heads()
    features, _ = fuse(FedGen(steps=20), server, own)
    counted, _ = fuse(FedGen(steps=20, label_counts=True), server, own, label_counts=[[7, 7, 7]] * 4)
    assert torch.equal(counted, features)


def test_diversity_keeps_features_of_one_class_apart(server):
    def spread(diversity):
        features, labels = fuse(FedGen(diversity=diversity, steps=300), server, heads())
        return torch.stack([torch.pdist(features[labels == label]).mean() for label in range(3)]).mean()

    assert spread(20.0) > 1.5 * spread(0.0)


def test_sameness_is_that_of_the_docstring():
    noise = torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    features = torch.tensor([[0.0, 1.0, 0.0], [3.0, 1.0, 3.0]], dtype=torch.float64)
    # Mean squared difference 2, mean absolute difference 2, in two of four pairs.
    assert _sameness(noise, features).item() == pytest.approx(math.exp(-2 * 2 * 2 / 4))


def test_the_generator_goes_on_from_round_to_round_and_through_a_save(server):
    own = heads()
    whole, stopped, resumed = FedGen(steps=10), FedGen(steps=10), FedGen(steps=10)
    assert stopped.state_dict() == {"network": {}}
    first, _ = fuse(whole, server, own)
    assert torch.equal(fuse(stopped, server, own)[0], first)
    resumed.load_state_dict(stopped.state_dict())
    second, _ = fuse(whole, server, own, round=2)
    assert torch.equal(fuse(resumed, server, own, round=2)[0], second)
    assert not torch.equal(fuse(FedGen(steps=10), server, own, round=2)[0], second)


def test_the_order_of_clients_does_not_matter_and_one_client_is_enough_and_the_type_stays(server):
    own = heads()
    features, labels = fuse(FedGen(), server, own)
    flipped, _ = fuse(FedGen(), server, {name: tensor.flip(0) for name, tensor in own.items()})
    torch.testing.assert_close(flipped, features, rtol=0, atol=1e-8)
    single = {name: tensor[:1].float() for name, tensor in own.items()}
    features, labels = fuse(FedGen(steps=5), server, single)
    assert features.dtype == torch.float32
    assert torch.isfinite(features).all()
    assert labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 0}, "samples=0 must be at least 1"),
        ({"noise": 0}, "noise=0 must be at least 1"),
        ({"hidden": 0}, "hidden=0 must be at least 1"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"diversity": -1.0}, "diversity=-1.0 must be finite and not negative"),
        ({"lr": 0.0}, "lr=0.0 must be finite and positive"),
        ({"lr": math.nan}, "lr=nan must be finite and positive"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FedGen(**arguments)
