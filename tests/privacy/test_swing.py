import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from protection import EXPOSURE, context

from fedfuse.errors import ConfigurationError
from fedfuse.privacy.noise import draw_noise
from fedfuse.privacy.swing import Swing

DISTRIBUTIONS = ("gaussian", "laplace")


def generator(seed=0):
    return np.random.default_rng(seed)


def random_soft_labels(rows=30, classes=4, seed=0, size=3.0):
    random = torch.Generator().manual_seed(seed)
    return torch.softmax(size * torch.randn(rows, classes, generator=random, dtype=torch.float64), dim=1)


def soft(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_likelihood_in_numbers():
    # Confidences in the own answer: 0.9 of the client; 0.4, 0.9 and 0.95 of the fused soft label.
    own = soft([0.9, 0.1], [0.1, 0.9], [0.9, 0.1])
    reference = soft([0.4, 0.6], [0.1, 0.9], [0.95, 0.05])
    likelihood = Swing(sharpness=5.0).privacy_likelihood(own, context(reference))
    expected = [1 / (1 + math.exp(-2.5)), 0.5, 1 / (1 + math.exp(0.25))]
    assert likelihood.tolist() == pytest.approx(expected)
    sharper = Swing(sharpness=10.0).privacy_likelihood(own, context(reference))
    assert sharper.tolist() == pytest.approx([1 / (1 + math.exp(-5)), 0.5, 1 / (1 + math.exp(0.5))])


def test_without_a_reference_the_likelihood_is_one_half():
    assert Swing().privacy_likelihood(random_soft_labels(), context()).tolist() == [0.5] * 30


def test_the_likelihood_by_density_is_how_like_the_own_data_a_sample_is():
    likeness = torch.linspace(0, 1, 30, dtype=torch.float64)
    by_density = Swing(likelihood="density")
    assert torch.equal(by_density.privacy_likelihood(random_soft_labels(), context(likeness=likeness)), likeness)
    assert by_density.uses_private_data
    assert not Swing().uses_private_data


def test_the_likelihood_by_flags_is_the_users_own_for_the_rows_that_are_asked_for(tmp_path):
    own, rows = random_soft_labels(rows=3), torch.tensor([1, 4, 7])
    flagged = Swing(likelihood="flags", flags=[4, 9])
    assert flagged.privacy_likelihood(own, context(rows=rows, num_transfer=10)).tolist() == [0, 1, 0]
    np.save(tmp_path / "flags.npy", np.arange(10) / 10)
    from_file = Swing(likelihood="flags", flags=str(tmp_path / "flags.npy"))
    assert from_file.privacy_likelihood(own, context(rows=rows, num_transfer=10)).tolist() == [0.1, 0.4, 0.7]
    from_file.check_transfer(10)
    with pytest.raises(ConfigurationError, match=r"has shape \[10\], not \[11\]"):
        from_file.check_transfer(11)


def test_flags_and_their_likelihood_come_together():
    with pytest.raises(ConfigurationError, match="likelihood=flags needs flags"):
        Swing(likelihood="flags")
    with pytest.raises(ConfigurationError, match="flags are for likelihood=flags, not for likelihood=density"):
        Swing(likelihood="density", flags=[1])


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_controls_have_the_same_mean_temperature_and_the_same_power_of_noise(distribution):
    likelihood = torch.rand(30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    adaptive = Swing(1.0, 8.0, 0.05, distribution)
    control = Swing(1.0, 8.0, 0.05, distribution, adaptive_temperature=False, adaptive_noise=False)
    (temperature, scale), (same_temperature, same_scale) = map(
        Swing.strengths, (adaptive, control), (likelihood, likelihood)
    )
    assert temperature.flatten().tolist() == pytest.approx((1 + 7 * likelihood).tolist())
    assert scale.flatten().tolist() == pytest.approx((0.05 * likelihood).tolist())
    assert same_temperature.unique().tolist() == pytest.approx([temperature.mean().item()])
    assert same_scale.unique().square().tolist() == pytest.approx([scale.square().mean().item()])


def test_each_control_alone_leaves_the_other_as_it_is():
    likelihood = torch.tensor([0.0, 1.0], dtype=torch.float64)
    temperature, scale = Swing(1.0, 3.0, 0.1, adaptive_temperature=False).strengths(likelihood)
    assert temperature.flatten().tolist() == [2, 2]
    assert scale.flatten().tolist() == pytest.approx([0, 0.1])
    temperature, scale = Swing(1.0, 3.0, 0.1, adaptive_noise=False).strengths(likelihood)
    assert temperature.flatten().tolist() == [1, 3]
    assert scale.flatten().tolist() == pytest.approx([0.1 / math.sqrt(2)] * 2)


def test_a_reference_is_needed_by_the_likelihood_of_memorisation_alone():
    assert Swing().needs_reference is True
    assert Swing(likelihood="density").needs_reference is False
    assert Swing.carrier == "soft_labels"


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), sharpness=st.floats(0.01, 1000), size=st.floats(0.1, 100))
def test_likelihood_lies_between_zero_and_one_and_rises_with_the_surplus_of_confidence(seed, sharpness, size):
    own, reference = random_soft_labels(seed=seed, size=size), random_soft_labels(seed=seed + 1, size=size)
    likelihood = Swing(sharpness=sharpness).privacy_likelihood(own, context(reference))
    assert likelihood.shape == (30,)
    assert (likelihood >= 0).all()
    assert (likelihood <= 1).all()
    surplus = own.amax(1) - reference.gather(1, own.argmax(1, keepdim=True)).squeeze(1)
    assert (likelihood[surplus.argsort()].diff() >= 0).all()
    assert ((likelihood > 0.5) <= (surplus > 0)).all()


def test_softened_values_in_numbers():
    # A likelihood of one half gives temperature 2, and softmax(log p / 2) is in proportion to the square root of p.
    softened = Swing(1.0, 3.0, noise_scale=0.0)(soft([0.64, 0.36]), context())
    assert softened.flatten().tolist() == pytest.approx([4 / 7, 3 / 7])


def test_softened_values_follow_the_likelihood_of_each_sample():
    own, reference = soft([0.9, 0.1], [0.9, 0.1]), soft([0.4, 0.6], [0.9, 0.1])
    softened = Swing(1.0, 8.0, noise_scale=0.0)(own, context(reference))
    for row, likelihood in zip(softened, (1 / (1 + math.exp(-2.5)), 0.5), strict=True):
        temperature = 1 + 7 * likelihood
        odds = 9 ** (1 / temperature)
        assert row.tolist() == pytest.approx([odds / (odds + 1), 1 / (odds + 1)])


def test_temperature_rises_with_the_likelihood():
    own = soft([0.9, 0.1]).expand(11, 2)
    confidence = torch.linspace(1, 0, 11, dtype=torch.float64)
    reference = torch.stack([confidence, 1 - confidence], dim=1)
    swing = Swing(noise_scale=0.0)
    assert (swing.privacy_likelihood(own, context(reference)).diff() > 0).all()
    # The less the others know of the answer, the flatter what is sent; the answer itself stays the same.
    kept = swing(own, context(reference))[:, 0]
    assert (kept.diff() < 0).all()
    assert (kept > 0.5).all()


def test_temperatures_of_one_without_noise_change_nothing():
    own = random_soft_labels()
    unchanged = Swing(1.0, 1.0, noise_scale=0.0)(own, context(random_soft_labels(seed=1)))
    torch.testing.assert_close(unchanged, own, rtol=0, atol=1e-12)


def test_likelihood_of_one_and_of_zero_give_the_extreme_temperatures():
    own, reference = soft([0.75, 0.25], [0.75, 0.25]), soft([0.0, 1.0], [1.0, 0.0])
    softened = Swing(1.0, 2.0, noise_scale=0.0, sharpness=1e4)(own, context(reference))
    odds = math.sqrt(3)
    assert softened[0].tolist() == pytest.approx([odds / (odds + 1), 1 / (odds + 1)])
    assert softened[1].tolist() == pytest.approx([0.75, 0.25])


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_noise_is_added_in_proportion_to_the_likelihood(distribution):
    own, reference = random_soft_labels(size=0.3), random_soft_labels(seed=1, size=0.3)
    noised = Swing(noise_scale=0.003, distribution=distribution)(own, context(reference, 5))
    softened = Swing(noise_scale=0.0, distribution=distribution)(own, context(reference, 5))
    noise = draw_noise(distribution, own.shape, generator(5))
    # Inside the simplex the projection takes away no more than the mean over the classes.
    likelihood = Swing().privacy_likelihood(own, context(reference)).unsqueeze(1)
    expected = softened + 0.003 * likelihood * (noise - noise.mean(1, keepdim=True))
    torch.testing.assert_close(noised, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("noise_scale", [0.0, 0.05, 10.0])
def test_results_are_probabilities(distribution, noise_scale):
    swing = Swing(noise_scale=noise_scale, distribution=distribution)
    own = torch.cat([random_soft_labels(), torch.eye(4, dtype=torch.float64)])
    result = swing(own, context(random_soft_labels(34, seed=1)))
    assert (result >= 0).all()
    torch.testing.assert_close(result.sum(1), torch.ones(34, dtype=torch.float64), rtol=0, atol=1e-12)


def test_precision_of_the_own_soft_labels_is_kept():
    own, reference = random_soft_labels().float(), random_soft_labels(seed=1)
    assert Swing()(own, context(reference)).dtype == torch.float32


def test_nothing_is_guaranteed():
    assert str(Swing(1.5, 8.0, 0.05).guarantee(EXPOSURE, 1)) == (
        "swing: Swing-style temperature 1.5 to 8 and laplace noise up to scale 0.05, by memorisation likelihood; "
        "guarantee: none"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"minimum_temperature": 0.9}, "temperatures from 0.9 to 8.0 must satisfy 1 <= minimum <= maximum"),
        ({"minimum_temperature": 9.0}, "temperatures from 9.0 to 8.0 must satisfy"),
        ({"minimum_temperature": math.nan}, "temperatures from nan to 8.0 must satisfy"),
        ({"maximum_temperature": math.inf}, "temperatures from 1.0 to inf must satisfy"),
        ({"maximum_temperature": math.nan}, "temperatures from 1.0 to nan must satisfy"),
        ({"noise_scale": -0.1}, "noise_scale=-0.1 must be finite and not negative"),
        ({"noise_scale": math.nan}, "noise_scale=nan must be finite and not negative"),
        ({"noise_scale": math.inf}, "noise_scale=inf must be finite and not negative"),
        ({"sharpness": 0}, "sharpness=0 must be positive and finite"),
        ({"sharpness": math.inf}, "sharpness=inf must be positive and finite"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Swing(**arguments)


def test_unknown_names_are_refused():
    with pytest.raises(ConfigurationError, match="Unknown noise distribution 'laplac'"):
        Swing(distribution="laplac")
    with pytest.raises(ConfigurationError, match=r"Unknown privacy likelihood 'memory'\..* Valid: density, flags"):
        Swing(likelihood="memory")
