import pytest
import torch
from protection import EXPOSURE, context

from fedfuse import catalogue
from fedfuse.carriers.carrier import CARRIERS
from fedfuse.components import build
from fedfuse.configuration import Component
from fedfuse.privacy.guarantee import Guarantee

LEFT_TO_THE_USER = {
    "dp_sgd": {"epsilon": 4.0},
    "gaussian": {"sigma": 0.1},
    "randomised_response": {"epsilon_per_answer": 1.0},
}


@pytest.fixture(params=catalogue.names("privacy", catalogue.folders()))
def protector(request):
    """Every protector that is shipped, as its file configures it."""
    values = catalogue.read("privacy", request.param, catalogue.folders()) | LEFT_TO_THE_USER.get(request.param, {})
    return build(Component(request.param, values.pop("_target_"), values), "protector")


def random_soft_labels(seed=0, dtype=torch.float32):
    random = torch.Generator().manual_seed(seed)
    return torch.softmax(4 * torch.randn(9, 5, generator=random, dtype=dtype), dim=1)


def test_every_shipped_protector_is_tested():
    assert {"clip", "dp_sgd", "gaussian", "noise", "randomised_response", "swing"} <= set(
        catalogue.names("privacy", catalogue.folders())
    )


def test_a_protector_says_what_it_protects_and_what_it_needs(protector):
    assert protector.carrier in CARRIERS
    assert isinstance(protector.needs_reference, bool)


def test_without_an_accounted_loss_nothing_is_guaranteed(protector):
    guarantee = protector.guarantee(EXPOSURE, 1)
    assert isinstance(guarantee, Guarantee)
    if guarantee.epsilon is None:
        assert (guarantee.unit, guarantee.adversary, guarantee.delta) == ("none", "none", None)
        assert "differential" not in str(guarantee).lower()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("has_reference", [False, True])
def test_protected_soft_labels_are_probabilities_of_the_same_kind(protector, dtype, has_reference):
    soft_labels = random_soft_labels(dtype=dtype)
    reference = random_soft_labels(seed=1, dtype=dtype) if has_reference else None
    protected = protector(soft_labels, context(reference, 0))
    assert protected.shape == soft_labels.shape
    assert protected.dtype == dtype
    assert (protected >= 0).all()
    torch.testing.assert_close(protected.sum(1), torch.ones(9, dtype=dtype), rtol=0, atol=1e-6)
    # One that works while clients learn has nothing left to do.
    assert torch.equal(protected, soft_labels) == (protector.role == "training")


def test_the_stream_decides_the_draws(protector):
    soft_labels, reference = random_soft_labels(), random_soft_labels(seed=1)
    first, again, other = (protector(soft_labels, context(reference, seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (protector.role in ("training", "bound"))


def test_certain_answers_can_be_protected_and_inputs_are_left_alone(protector):
    soft_labels = torch.eye(5)
    reference = soft_labels.flip(0).clone()
    protected = protector(soft_labels, context(reference, 0))
    assert torch.isfinite(protected).all()
    assert torch.equal(soft_labels, torch.eye(5))
    assert torch.equal(reference, torch.eye(5).flip(0))
