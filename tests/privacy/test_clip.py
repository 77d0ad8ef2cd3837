import itertools
import math

import pytest
import torch
from protection import EXPOSURE, context

from fedfuse.privacy.accounting import zcdp_to_epsilon
from fedfuse.privacy.chain import guarantees_of, with_radii
from fedfuse.privacy.clip import Clip, diameter
from fedfuse.privacy.gaussian import Gaussian


def soft(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def random_soft_labels(rows=200, classes=5, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.softmax(4 * torch.randn(rows, classes, generator=random, dtype=torch.float64), 1)


def test_soft_labels_outside_are_moved_towards_uniform_onto_the_radius():
    # A certain answer of two is 1 / sqrt 2 from uniform.
    clipped = Clip(0.3)(soft([1.0, 0.0], [0.25, 0.75]), context())
    part = 0.3 / math.sqrt(2)
    torch.testing.assert_close(clipped, soft([0.5 + part, 0.5 - part], [0.5 - part, 0.5 + part]), rtol=0, atol=1e-15)


def test_soft_labels_inside_and_uniform_ones_stay():
    inside = soft([0.3, 0.3, 0.4], [1 / 3, 1 / 3, 1 / 3])
    torch.testing.assert_close(Clip(0.2)(inside, context()), inside, rtol=0, atol=1e-16)


@pytest.mark.parametrize("radius", [1e-3, 0.2, 0.6, 5.0])
def test_clipped_soft_labels_are_mixtures_with_uniform_within_the_radius(radius):
    soft_labels = torch.cat([random_soft_labels(), torch.eye(5, dtype=torch.float64)])
    clipped = Clip(radius)(soft_labels, context())
    assert (clipped >= 0).all()
    torch.testing.assert_close(clipped.sum(1), torch.ones(205, dtype=torch.float64), rtol=0, atol=1e-14)
    assert (clipped - 0.2).norm(dim=1).max() <= radius * (1 + 1e-12)
    kept = (clipped - 0.2).norm(dim=1) / (soft_labels - 0.2).norm(dim=1)
    torch.testing.assert_close(clipped, 0.2 + kept.unsqueeze(1) * (soft_labels - 0.2), rtol=0, atol=1e-14)


def test_precision_is_kept():
    assert Clip(0.1)(random_soft_labels().float(), context()).dtype == torch.float32


@pytest.mark.parametrize(
    ("radius", "classes", "expected"),
    [
        (0.1, 10, 0.2),
        (0.5, 10, math.sqrt(0.7)),
        (math.sqrt(0.9), 10, math.sqrt(2)),
        (3.0, 10, math.sqrt(2)),
        (0.5, 4, 1.0),
    ],
)
def test_diameter_in_numbers(radius, classes, expected):
    assert diameter(radius, classes) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("radius", [0.1, 0.4, 0.5, 0.6, 0.9])
def test_no_two_clipped_soft_labels_are_further_apart_than_the_diameter(radius):
    # Every pair of answers that are even on some classes and zero on the others.
    corners = torch.tensor(list(itertools.product([0.0, 1.0], repeat=5))[1:], dtype=torch.float64)
    clipped = Clip(radius)(corners / corners.sum(1, keepdim=True), context())
    furthest = torch.cdist(clipped, clipped).max().item()
    assert 0.85 * diameter(radius, 5) < furthest <= diameter(radius, 5) * (1 + 1e-12)


def test_a_radius_bounds_what_the_step_right_after_it_relies_on():
    clip, gaussian = Clip(0.1), Gaussian(1.0)
    assert [radius for _, radius in with_radii([clip, gaussian])] == [None, 0.1]
    bounded, alone = guarantees_of([clip, gaussian], EXPOSURE, 1)[1], guarantees_of([gaussian], EXPOSURE, 1)[0]
    # Rho falls with the square of the sensitivity: 50 times.
    assert bounded.epsilon == pytest.approx(zcdp_to_epsilon(6, 1e-5), rel=1e-9)
    assert alone.epsilon == pytest.approx(zcdp_to_epsilon(300, 1e-5), rel=1e-9)


def test_nothing_is_guaranteed():
    guarantee = Clip(0.25).guarantee(EXPOSURE, 20)
    assert str(guarantee) == "clip: soft labels within 0.25 of the uniform distribution; guarantee: none"
    assert not guarantee.holds
    assert Clip.role == "bound"


@pytest.mark.parametrize("radius", [0, -1.0, math.nan, math.inf])
def test_a_radius_that_bounds_nothing_is_refused(radius):
    with pytest.raises(ValueError, match=f"^radius={radius} must be positive and finite$"):
        Clip(radius)
