import math

import numpy as np
import pytest
import torch
from protection import EXPOSURE, context

from fedfuse.errors import ConfigurationError
from fedfuse.privacy.noise import Noise, check_distribution, draw_noise
from fedfuse.privacy.simplex import project_to_simplex

DISTRIBUTIONS = ("gaussian", "laplace")


def interior_soft_labels(rows=50, classes=4):
    """Soft labels so near to uniform that small noise does not reach the border of the simplex."""
    random = torch.Generator().manual_seed(0)
    return torch.softmax(0.3 * torch.randn(rows, classes, generator=random, dtype=torch.float64), dim=1)


@pytest.mark.parametrize(
    # For each: the standard deviation, the mean distance from zero and the kurtosis.
    ("distribution", "deviation", "distance", "kurtosis"),
    [("gaussian", 1.0, math.sqrt(2 / math.pi), 3.0), ("laplace", math.sqrt(2), 1.0, 6.0)],
)
def test_noise_has_the_moments_of_its_distribution(distribution, deviation, distance, kurtosis):
    noise = draw_noise(distribution, torch.Size([2000, 100]), np.random.default_rng(0))
    assert noise.shape == (2000, 100)
    assert noise.dtype == torch.float64
    # Five standard errors of 200,000 draws.
    assert abs(noise.mean().item()) < 5 * deviation / math.sqrt(200_000)
    assert noise.std().item() == pytest.approx(deviation, rel=0.02)
    assert noise.abs().mean().item() == pytest.approx(distance, rel=0.01)
    assert (noise**4).mean().item() / deviation**4 == pytest.approx(kurtosis, rel=0.06)
    correlation = torch.corrcoef(torch.stack([noise[:, 0], noise[:, 1]]))[0, 1]
    assert abs(correlation.item()) < 0.1


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_stream_decides_the_noise(distribution):
    shape = torch.Size([3, 4])
    draws = [draw_noise(distribution, shape, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_scale_of_zero_changes_nothing(distribution):
    soft_labels = torch.cat([interior_soft_labels(), torch.eye(4, dtype=torch.float64)])
    protected = Noise(0.0, distribution)(soft_labels, context(seed=0))
    torch.testing.assert_close(protected, soft_labels, rtol=0, atol=1e-15)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_inside_the_simplex_the_noise_is_added_less_its_mean_over_the_classes(distribution):
    soft_labels = interior_soft_labels()
    protected = Noise(0.003, distribution)(soft_labels, context(seed=5))
    noise = draw_noise(distribution, soft_labels.shape, np.random.default_rng(5))
    expected = soft_labels + 0.003 * (noise - noise.mean(1, keepdim=True))
    torch.testing.assert_close(protected, expected, rtol=0, atol=1e-14)


def test_noised_soft_labels_are_projected():
    soft_labels = torch.eye(4, dtype=torch.float64)
    protected = Noise(2.0)(soft_labels, context(seed=5))
    noise = draw_noise("gaussian", soft_labels.shape, np.random.default_rng(5))
    torch.testing.assert_close(protected, project_to_simplex(soft_labels + 2 * noise))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_more_noise_moves_soft_labels_further(distribution):
    soft_labels = interior_soft_labels()
    distances = [
        (Noise(scale, distribution)(soft_labels, context(seed=0)) - soft_labels).norm().item()
        for scale in (0.0, 0.01, 0.05, 0.2)
    ]
    assert distances == sorted(distances)
    assert distances[-1] > 1


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_logits_are_centred_clipped_and_noised(distribution):
    soft_labels = torch.tensor([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0]], dtype=torch.float64)
    protected = Noise(0.3, distribution, "logit", bound=1.0)(soft_labels, context(seed=5))
    noise = 0.3 * draw_noise(distribution, soft_labels.shape, np.random.default_rng(5))
    logs = [math.log(value) for value in (0.7, 0.2, 0.1)]
    centred = [value - sum(logs) / 3 for value in logs]
    clipped = torch.tensor([[1.0, centred[1], -1.0 if centred[2] < -1 else centred[2]], [1.0, -1.0, -1.0]])
    torch.testing.assert_close(protected, torch.softmax(clipped.double() + noise, 1), rtol=0, atol=1e-7)


def test_logits_within_the_bound_are_left_as_they_are_without_noise():
    soft_labels = interior_soft_labels()
    protected = Noise(0.0, space="logit", bound=30.0)(soft_labels, context())
    torch.testing.assert_close(protected, soft_labels, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf])
def test_a_bound_that_is_not_positive_is_refused(bound):
    with pytest.raises(ValueError, match=f"bound={bound} must be positive and finite"):
        Noise(bound=bound)


def test_an_unknown_space_is_refused():
    with pytest.raises(ConfigurationError, match="Unknown noise space 'logits'"):
        Noise(space="logits")


def test_a_reference_is_neither_needed_nor_used():
    soft_labels = interior_soft_labels()
    assert Noise.needs_reference is False
    assert Noise.carrier == "soft_labels"
    with_reference = Noise()(soft_labels, context(soft_labels.flip(0), 0))
    assert torch.equal(with_reference, Noise()(soft_labels, context(seed=0)))


def test_nothing_is_guaranteed():
    assert str(Noise(0.1, "laplace").guarantee(EXPOSURE, 1)) == (
        "noise: laplace noise of scale 0.1 on soft labels; guarantee: none"
    )


@pytest.mark.parametrize("scale", [-0.01, math.nan, math.inf])
def test_a_scale_that_is_negative_is_refused(scale):
    with pytest.raises(ValueError, match=f"scale={scale} must be finite and not negative"):
        Noise(scale)


def test_an_unknown_distribution_is_refused():
    with pytest.raises(ConfigurationError, match="Unknown noise distribution 'gauss'"):
        Noise(distribution="gauss")
    for known in DISTRIBUTIONS:
        check_distribution(known)
