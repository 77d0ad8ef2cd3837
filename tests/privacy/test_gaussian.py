import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from protection import EXPOSURE, context

from fedfuse.composition import compose
from fedfuse.errors import ConfigurationError
from fedfuse.privacy import gaussian
from fedfuse.privacy.accounting import zcdp_to_epsilon
from fedfuse.privacy.clip import Clip, diameter
from fedfuse.privacy.discrete_gaussian import draw
from fedfuse.privacy.gaussian import Gaussian, UnboundedError, in_steps
from fedfuse.privacy.guarantee import FROM_THE_SYSTEM, SEEDED
from fedfuse.privacy.simplex import project_to_simplex

ONE_ROUND = replace(EXPOSURE, num_rounds=1, num_rows=1000)


def random_soft_labels(rows=200, classes=10, seed=0):
    random = torch.Generator().manual_seed(seed)
    soft_labels = torch.softmax(4 * torch.randn(rows, classes, generator=random, dtype=torch.float64), 1)
    return torch.cat([soft_labels, torch.eye(classes, dtype=torch.float64)])


def test_the_guarantee_in_numbers():
    guarantee = Gaussian(1.0).guarantee(ONE_ROUND, 1)
    assert guarantee.epsilon == pytest.approx(1211.3105, abs=1e-4)
    assert (guarantee.delta, guarantee.unit, guarantee.draws) == (1e-5, "client", FROM_THE_SYSTEM)
    assert str(guarantee) == (
        "gaussian: discrete Gaussian noise of deviation 1 on soft labels at most 1.414 apart, of 1000 samples a round; "
        "guarantee: epsilon 1212, delta 1e-05 for one client against everyone who sees what it sends, the server "
        "included; drawn from the operating system's generator"
    )


def test_rho_is_composed_over_samples_and_rounds_and_falls_with_the_square_of_the_noise():
    exposure = replace(EXPOSURE, num_rows=7, sensitivity=0.6)
    for sigma, num_rounds, rho in ((2.0, 1, 7 * 0.09 / 2), (2.0, 20, 140 * 0.09 / 2), (0.5, 3, 21 * 1.44 / 2)):
        epsilon = Gaussian(sigma, delta=1e-3).guarantee(exposure, num_rounds).epsilon
        assert epsilon == pytest.approx(zcdp_to_epsilon(rho, 1e-3), rel=1e-12)


def test_draws_from_the_seed_are_said_to_be_so():
    assert Gaussian(1.0).guarantee(replace(EXPOSURE, secure=False), 1).draws == SEEDED


def test_one_soft_label_is_as_private_as_its_exact_probabilities_say():
    # The exact hockey-stick divergence of the two furthest answers, in steps, is below delta at the epsilon claimed.
    sigma, delta = 0.8, 1e-5
    exposure = replace(EXPOSURE, num_rounds=1, num_rows=1)
    epsilon = Gaussian(sigma, delta).guarantee(exposure, 1).epsilon
    first, second = in_steps(np.eye(2), None, Gaussian(sigma).steps)
    values = np.arange(-8 * 256, 8 * 256 + 1)
    weights = np.exp(-(values**2) / (2 * 256**2))
    weights /= weights.sum()
    # The loss is linear in the noise of each class, so its distribution is that of a sum of two.
    shift = first - second
    ratio = [(shift[c] ** 2 + 2 * shift[c] * values) / (2 * 256**2) for c in range(2)]
    loss = ratio[0][:, None] + ratio[1][None, :]
    exact = (weights[:, None] * weights[None, :] * np.maximum(1 - np.exp(epsilon - loss), 0)).sum()
    assert 0.02 * delta < exact < delta


def test_answers_are_the_projection_of_whole_numbers_with_discrete_noise():
    soft_labels, given = random_soft_labels(), context(seed=3)
    noised = Gaussian(0.5)(soft_labels, given)
    noise = draw(soft_labels.numel(), context(seed=3).keystream).reshape(soft_labels.shape)
    whole = in_steps(soft_labels.numpy(), None, Fraction(512))
    assert torch.equal(noised, project_to_simplex(torch.from_numpy((whole + noise) / 512)))


def test_what_is_below_a_step_does_not_reach_the_answer():
    # Values that share their whole numbers share every bit of the answer: nothing finer is left to be read.
    fine = random_soft_labels()
    whole = in_steps(fine.numpy(), None, Fraction(256))
    coarse = (torch.from_numpy(whole).double() + 0.5) / 256
    coarse[:, 0] += 1 - coarse.sum(1)
    same = (in_steps(coarse.numpy(), None, Fraction(256)) == whole).all(1)
    assert same.sum() > 20
    first, second = (Gaussian(1.0)(soft_labels, context()) for soft_labels in (fine, coarse))
    assert torch.equal(first[same], second[same])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("radius", [None, 0.1, 0.5])
@pytest.mark.parametrize("sigma", [1e-4, 0.05, 1.0, 1e4])
def test_answers_are_probabilities(dtype, radius, sigma):
    soft_labels = random_soft_labels().to(dtype)
    noised = Gaussian(sigma)(soft_labels, context(radius=radius))
    assert noised.dtype == dtype
    assert (noised >= 0).all()
    torch.testing.assert_close(noised.sum(1), torch.ones(210, dtype=dtype), rtol=0, atol=1e-6)


def test_noise_has_the_deviation_asked_for_and_no_bias():
    # So little that the projection takes away no more than the mean over classes.
    soft_labels = torch.full((2000, 10), 0.1, dtype=torch.float64)
    for radius in (None, 0.2):
        deviation = Gaussian(0.01)(soft_labels, context(radius=radius)) - soft_labels
        assert deviation.std().item() == pytest.approx(0.01 * math.sqrt(0.9), rel=0.02)
        assert deviation.mean(0).abs().max() < 5 * 0.01 / math.sqrt(2000)


@pytest.mark.parametrize("radius", [0.1, 0.2])
def test_rounding_and_clipping_leave_almost_nothing_to_see(radius):
    soft_labels = Clip(radius)(random_soft_labels(), context())
    noised = Gaussian(1e-4)(soft_labels, context(radius=radius))
    torch.testing.assert_close(noised, soft_labels, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "steps", [Fraction(1), Fraction(256), Fraction(511, 2), 256 / Fraction(0.3), Fraction(2560000)]
)
@pytest.mark.parametrize("radius", [None, 1e-3, 0.2, 1 / math.sqrt(10), 0.32, 0.6, 0.95, 7.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_two_rows_are_further_apart_than_the_diameter_in_whole_numbers(steps, radius, dtype):
    soft_labels = random_soft_labels().to(dtype)
    if radius is not None:
        soft_labels = Clip(radius)(soft_labels, context())
    whole = in_steps(soft_labels.double().numpy(), radius, steps)
    assert whole.dtype == np.int64
    furthest = max(int(((row - whole) ** 2).sum(1).max()) for row in whole)
    # The square of the diameter, in exact arithmetic.
    bounds = [Fraction(2)]
    if radius is not None:
        bounds += [4 * Fraction(radius) ** 2, 2 * (Fraction(radius) ** 2 + Fraction(1, 10))]
        assert math.sqrt(min(bounds)) == pytest.approx(diameter(radius, 10), rel=1e-14)
    assert furthest <= min(bounds) * steps**2
    if steps > 100_000:
        # Not by throwing the knowledge away.
        values = whole / float(steps)
        values -= values.mean(1, keepdims=True)
        np.testing.assert_allclose(values, soft_labels.double().numpy() - 0.1, rtol=0, atol=3e-6)


def test_longer_rows_than_the_radius_are_shortened_first():
    # Whoever forgot to clip is clipped: the noise relies on it.
    whole = in_steps(np.eye(10), 0.1, Fraction(10**6))
    np.testing.assert_allclose(np.sqrt((whole**2).sum(1)), 1e5, rtol=1e-4)


def test_rows_that_are_no_distributions_become_ones():
    rows = np.array([[math.nan, 1.0], [math.inf, 1.0], [0.0, 0.0], [-1.0, 1.0], [30.0, 10.0], [1e308, 1e308]])
    assert in_steps(rows, None, Fraction(1000)).tolist() == [
        [499, 499],
        [499, 499],
        [499, 499],
        [0, 999],
        [749, 249],
        [499, 499],
    ]


@pytest.mark.parametrize("radius", [None, 0.2, 0.5])
def test_a_bound_that_does_not_hold_stops_the_answer(monkeypatch, radius):
    # As if floating point had rounded up where it was to round down.
    monkeypatch.setattr(gaussian, "MARGIN", -0.01)
    with pytest.raises(UnboundedError, match="soft labels are longer than"):
        Gaussian(1e-3)(torch.eye(10), context(radius=radius))


def test_the_stream_of_secrets_alone_decides_the_noise():
    soft_labels = random_soft_labels()
    first = Gaussian(0.1)(soft_labels, context(seed=1))
    assert torch.equal(first, Gaussian(0.1)(soft_labels, replace(context(seed=1), generator=None)))
    assert not torch.equal(first, Gaussian(0.1)(soft_labels, context(seed=2)))


def test_what_it_is():
    assert (Gaussian.role, Gaussian.carrier) == ("mechanism", "soft_labels")
    assert not Gaussian.needs_reference
    assert not Gaussian.uses_private_data


@pytest.mark.parametrize("sigma", [0, -1.0, math.nan, math.inf, 1e-5, 1e5])
def test_noise_that_hides_nothing_or_everything_is_refused(sigma):
    with pytest.raises(ValueError, match=f"^sigma={sigma} must be positive, from 0.0001 to 10000$"):
        Gaussian(sigma)


def test_a_delta_that_lets_a_client_go_unprotected_is_refused():
    with pytest.raises(ValueError, match=r"^delta=1 must be in \(0, 1\)$"):
        Gaussian(1.0, delta=1)
    with pytest.raises(ConfigurationError, match=r"delta=0\.1 of gaussian must be below 1/10"):
        Gaussian(1.0, delta=0.1).guarantee(EXPOSURE, 1)


def test_noise_must_be_chosen():
    with pytest.raises(
        ConfigurationError,
        match=r"^privacy gaussian needs a value for sigma: write \{name: gaussian, sigma: VALUE\}\.$",
    ):
        compose(["privacy=[gaussian]"])
    (component,) = compose(["privacy=[{name: gaussian, sigma: 2}]"]).privacy
    assert component.arguments == {"sigma": 2, "delta": 1e-5}
