import math

import pytest
import torch

from fedfuse.client.fit import FitJob, Stream, Term, batch_plan
from fedfuse.configuration import OptimizerSettings
from fedfuse.engine import sequential, stacked
from fedfuse.models.outputs import Outputs
from fedfuse.objectives.norm_direction import NormDirection

# Of the known ones the norms are 5 and 15, 10 on average.
PROTOTYPES = torch.tensor([[3.0, 4.0], [0.0, -15.0], [1000.0, 0.0]], dtype=torch.float64)
KNOWN = torch.tensor([True, True, False])


def losses_of(features, labels, weight=1.0, prototypes=PROTOTYPES, known=KNOWN):
    outputs = Outputs(torch.full((len(labels), 3), math.nan), features)
    batch = {"labels": torch.as_tensor(labels), "prototypes": prototypes.to(features), "prototype_mask": known}
    losses, state = NormDirection(weight)(outputs, batch, torch.ones(len(labels), dtype=torch.bool), {})
    assert state == {}
    return losses


def test_features_longer_than_prototypes_are_on_average_are_judged_by_their_direction_alone():
    features = torch.tensor(
        [[30.0, 40.0], [40.0, -30.0], [-30.0, -40.0], [0.0, -11.0], [12.0, -16.0]], dtype=torch.float64
    )
    # Cosines of 1, 0, -1, 1 and 0.8.
    assert losses_of(features, [0, 0, 0, 1, 1]).tolist() == pytest.approx([0, 1, 2, 0, 0.2], abs=1e-14)


def test_shorter_features_cost_more_even_in_the_right_direction():
    features = torch.tensor([[3.0, 4.0], [0.6, 0.8], [0.0, -2.0], [0.0, 2.0]], dtype=torch.float64)
    # Lengths 5, 1, 2 and -2 along the prototype, of 10.
    assert losses_of(features, [0, 0, 1, 1]).tolist() == pytest.approx([0.5, 0.9, 0.8, 1.2], rel=1e-14)


def test_weight_multiplies_the_loss():
    features = torch.tensor([[3.0, 4.0], [0.0, -2.0]], dtype=torch.float64)
    assert losses_of(features, [0, 1], weight=0.5).tolist() == pytest.approx([0.25, 0.4])
    assert losses_of(features, [0, 1], weight=0).tolist() == [0, 0]


def test_gradient_turns_long_features_and_lengthens_short_ones():
    features = torch.tensor([[40.0, -30.0], [1.0, 1.0]], dtype=torch.float64).requires_grad_()
    losses_of(features, [0, 0]).sum().backward()
    # Long: the direction (0.6, 0.8), at right angles here, over the norm 50. Short: over 10, whatever they are.
    assert features.grad.flatten().tolist() == pytest.approx([-0.012, -0.016, -0.06, -0.08], rel=1e-12)
    along = torch.tensor([[30.0, 40.0]], dtype=torch.float64).requires_grad_()
    losses_of(along, [0]).sum().backward()
    assert along.grad.abs().max() < 1e-15


def test_gradient_agrees_with_finite_differences():
    generator = torch.Generator().manual_seed(0)
    features = (10 * torch.randn(8, 2, generator=generator, dtype=torch.float64)).requires_grad_()
    norms = features.norm(dim=1)
    assert (norms > 10).any()
    assert (norms < 10).any()
    labels = [0, 1, 2, 1, 0, 0, 1, 1]
    assert torch.autograd.gradcheck(lambda given: losses_of(given, labels, weight=0.7), (features,))


@pytest.mark.parametrize("unknown", [[0.0, 0.0], [math.nan, math.inf]])
def test_a_class_without_a_prototype_counts_nothing_and_what_stands_there_does_not_matter(unknown):
    features = torch.tensor([[3.0, 4.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    losses = losses_of(
        features, [2, 0], prototypes=torch.cat([PROTOTYPES[:2], torch.tensor([unknown], dtype=torch.float64)])
    )
    losses.sum().backward()
    assert losses.tolist() == pytest.approx([0, 0.5])
    assert features.grad.flatten().tolist() == pytest.approx([0, 0, -0.06, -0.08])


def test_without_any_prototype_there_is_no_loss():
    features = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    losses = losses_of(features, [0, 1], known=torch.zeros(3, dtype=torch.bool))
    losses.sum().backward()
    assert losses.tolist() == [0, 0]
    assert (features.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_of_zero_are_pulled_along_the_prototype(dtype):
    features = torch.zeros(2, 2, dtype=dtype, requires_grad=True)
    losses = losses_of(features, [0, 1])
    losses.sum().backward()
    assert losses.tolist() == [1, 1]
    assert features.grad.flatten().tolist() == pytest.approx([-0.06, -0.08, 0, 0.1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_prototypes_of_zero_have_no_direction_and_pull_nowhere(dtype):
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=dtype, requires_grad=True)
    losses = losses_of(features, [0, 1], prototypes=torch.zeros(3, 2))
    losses.sum().backward()
    assert losses.tolist() == [1, 1]
    assert (features.grad == 0).all()


def test_many_clients_at_once_give_what_each_gives_alone():
    generator = torch.Generator().manual_seed(0)
    features = 10 * torch.randn(2, 5, 2, generator=generator, dtype=torch.float64)
    prototypes, known = torch.stack([PROTOTYPES, PROTOTYPES.flip(0)]), torch.stack([KNOWN, ~KNOWN])
    labels = torch.tensor([[0, 1, 2, 0, 1], [2, 2, 1, 0, 2]])

    def losses(features, labels, prototypes, known):
        return losses_of(features, labels, 1.0, prototypes, known)

    alone = [losses(*own) for own in zip(features, labels, prototypes, known, strict=True)]
    together = torch.vmap(losses)(features, labels, prototypes, known)
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["small", "cnn"])
def test_both_runners_train_alike_with_padding_and_without_a_step(architectures, make_samples, name):
    architecture, jobs = architectures[name], []
    for seed, number in enumerate((7, 1, 0)):
        samples, plan = make_samples(number, seed), batch_plan(torch.arange(number).repeat(2, 1), 4)
        generator = torch.Generator().manual_seed(seed)
        prototypes = torch.randn(3, 5, generator=generator, dtype=torch.float64)
        constants = {"prototypes": prototypes, "prototype_mask": KNOWN if seed else ~KNOWN}
        stream = Stream({"inputs": samples.inputs, "labels": samples.labels}, plan, constants)
        parameters = architecture.initial_parameters(seed, torch.float64)
        terms = (Term("private", NormDirection(2.0)),)
        jobs.append(FitJob(architecture, parameters, {"private": stream}, terms, OptimizerSettings(lr=0.1)))
    for one, other in zip(sequential.fit(jobs), stacked.fit(jobs), strict=True):
        for key, tensor in one.parameters.items():
            torch.testing.assert_close(other.parameters[key], tensor, rtol=0, atol=1e-10)


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_a_weight_that_is_negative_is_refused(weight):
    with pytest.raises(ValueError, match=f"weight={weight} must be finite and not negative"):
        NormDirection(weight)


def test_labels_and_prototypes_are_needed_and_nothing_is_remembered():
    assert NormDirection().weight == 1
    assert NormDirection().needs == {"labels", "prototypes"}
    assert NormDirection().per_sample
    assert NormDirection().initial_state() == {}
