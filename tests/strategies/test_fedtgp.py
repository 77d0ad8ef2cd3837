import math
from functools import partial

import pytest
import torch

from fedfuse.knowledge import KnowledgeBatch
from fedfuse.models.architecture import describe
from fedfuse.models.mlp import MLP
from fedfuse.server import Server
from fedfuse.transfer.all import AllRows
from strategies.fedtgp import FedTGP


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


def batch(prototypes, mask=None):
    mask = torch.ones(prototypes.shape[:2], dtype=torch.bool) if mask is None else mask
    tensors = {"prototypes": {"prototypes": prototypes, "mask": mask}}
    return KnowledgeBatch(tuple(range(len(prototypes))), 1, tensors)


def fuse(strategy, server, prototypes, mask=None):
    fused = strategy.fuse(batch(prototypes, mask), server)
    assert fused.personal == {}
    return fused.common["prototypes"]["prototypes"], fused.common["prototypes"]["mask"]


def random_prototypes(number=5, width=4, seed=0, spread=0.3):
    """Prototypes of three classes, around a middle for each class."""
    random = torch.Generator().manual_seed(seed)
    middles = torch.randn(1, 3, width, generator=random, dtype=torch.float64)
    return middles + spread * torch.randn(number, 3, width, generator=random, dtype=torch.float64)


def test_prototypes_travel_both_ways_and_features_must_have_one_width():
    assert FedTGP.sends == FedTGP.returns == {"prototypes"}
    assert FedTGP.needs == frozenset()
    assert FedTGP.one_embedding_size


def test_a_clients_prototype_is_nearest_to_the_global_one_of_its_class(server):
    prototypes = random_prototypes(spread=0.1)
    trained, _ = fuse(FedTGP(steps=300), server, prototypes)
    nearest = torch.cdist(prototypes.flatten(0, 1), trained).argmin(1).reshape(5, 3)
    assert torch.equal(nearest, torch.arange(3).expand(5, 3))


def test_the_margin_pushes_the_prototypes_of_classes_apart(server):
    prototypes = random_prototypes()

    def smallest_gap(largest_margin):
        trained, _ = fuse(FedTGP(largest_margin, steps=300), server, prototypes)
        return torch.pdist(trained).min()

    means = torch.pdist(prototypes.mean(0))
    assert smallest_gap(100.0) > smallest_gap(0.0)
    # A margin of the largest gap between means is the most that there is.
    assert smallest_gap(100.0) == smallest_gap(float(means.max()) + 1e-9)
    assert smallest_gap(100.0) > means.min()


def test_training_lowers_the_loss_of_the_docstring(server):
    prototypes = random_prototypes()
    means = prototypes.mean(0)
    margin = torch.pdist(means).max()

    def loss(trained):
        total = 0.0
        for client in range(5):
            for label in range(3):
                terms = [math.exp(-(prototypes[client, label] - other).norm()) for other in trained]
                own = terms[label] * math.exp(-margin)
                total -= math.log(own / (own + sum(terms) - terms[label]))
        return total / 15

    losses = [loss(fuse(FedTGP(steps=steps), server, prototypes)[0]) for steps in (1, 50, 300)]
    assert losses[0] > losses[1] > losses[2]


def test_training_goes_on_from_round_to_round_and_through_a_save(server):
    prototypes = random_prototypes()
    whole, stopped, resumed = FedTGP(steps=20), FedTGP(steps=20), FedTGP(steps=20)
    assert stopped.state_dict() == {"network": {}}
    resumed.load_state_dict(stopped.state_dict())
    first, _ = fuse(whole, server, prototypes)
    assert torch.equal(fuse(stopped, server, prototypes)[0], first)
    resumed.load_state_dict(stopped.state_dict())
    second, _ = fuse(whole, server, prototypes)
    assert not torch.equal(first, second)
    assert torch.equal(fuse(resumed, server, prototypes)[0], second)


def test_a_class_that_nobody_has_is_absent_and_what_clients_lack_does_not_matter(server):
    prototypes = random_prototypes()
    holds = [[True, True, False], [True, False, False], [False, True, False], [True, True, False], [False] * 3]
    mask = torch.tensor(holds)
    trained, known = fuse(FedTGP(), server, prototypes, mask)
    assert known.tolist() == [True, True, False]
    assert trained[2].tolist() == [0] * 4
    garbage, _ = fuse(FedTGP(), server, torch.where(mask.unsqueeze(2), prototypes, 1e9), mask)
    assert torch.equal(garbage, trained)
    nothing, known = fuse(FedTGP(), server, prototypes, torch.zeros(5, 3, dtype=torch.bool))
    assert not known.any()
    assert (nothing == 0).all()


def test_one_class_of_one_client_is_enough(server):
    mask = torch.tensor([[False, True, False]])
    trained, known = fuse(FedTGP(), server, random_prototypes(1), mask)
    assert known.tolist() == [False, True, False]
    assert torch.isfinite(trained).all()


def test_the_order_of_clients_does_not_matter_and_the_type_stays(server):
    prototypes = random_prototypes()
    trained, _ = fuse(FedTGP(), server, prototypes)
    torch.testing.assert_close(fuse(FedTGP(), server, prototypes.flip(0))[0], trained, rtol=0, atol=1e-9)
    assert fuse(FedTGP(), server, prototypes.float())[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"largest_margin": -1.0}, "largest_margin=-1.0 must be finite and not negative"),
        ({"largest_margin": math.inf}, "largest_margin=inf must be finite and not negative"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"lr": 0.0}, "lr=0.0 must be finite and positive"),
        ({"lr": math.nan}, "lr=nan must be finite and positive"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FedTGP(**arguments)
