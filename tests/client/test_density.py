import gc
import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import MultivariateNormal

from fedfuse.client import density as density_module
from fedfuse.client.density import LOWEST_LOG_DENSITY, Density, choose_bandwidth, densities_of, shared_space
from fedfuse.data.federation import TransferSet
from fedfuse.data.samples import Samples

ONE_BANDWIDTH = torch.tensor([0.5], dtype=torch.float64)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def estimate(reference, bandwidths=ONE_BANDWIDTH):
    """The density around samples, in the space where they are."""
    bandwidth, own = choose_bandwidth(reference, bandwidths)
    dimension = reference.shape[1]
    mean, axes = torch.zeros(dimension, dtype=torch.float64), torch.eye(dimension, dtype=torch.float64)
    return Density(mean, axes, reference, bandwidth, own)


@pytest.fixture
def cohort(make_clients, make_settings):
    """Clients of which nothing was estimated before."""
    return make_clients(("small",)), make_settings()


@pytest.fixture
def estimated(monkeypatch):
    """Note the samples by which each bandwidth is chosen."""
    seen = []

    def watched(reference, bandwidths):
        seen.append(reference)
        return choose_bandwidth(reference, bandwidths)

    monkeypatch.setattr(density_module, "choose_bandwidth", watched)
    return seen


# -- a density ---------------------------------------------------------------------------------------------------------


def test_density_is_the_mean_of_gaussians_around_the_samples():
    reference, points = random(5, 3), random(4, 3, seed=1)
    for point, log_density in zip(points, estimate(reference)(points), strict=True):
        kernels = [MultivariateNormal(own, 0.25 * torch.eye(3).double()).log_prob(point).exp() for own in reference]
        assert log_density.item() == pytest.approx(math.log(sum(kernels) / 5), abs=1e-12)


def test_density_of_one_sample_in_numbers_and_with_the_widest_bandwidth():
    bandwidths = torch.tensor([0.1, 2.0, 0.5], dtype=torch.float64)
    density = estimate(torch.zeros(1, 1).double(), bandwidths)
    # A Gaussian of standard deviation 2: at its middle, and two deviations off.
    middle = -math.log(2 * math.sqrt(2 * math.pi))
    assert density(torch.tensor([[0.0], [4.0]]).double()).tolist() == pytest.approx([middle, middle - 2])
    assert density.bandwidth == 2
    assert len(density.own) == 0


def test_points_are_brought_into_the_space_of_the_samples():
    # Of two directions the second is left out, and the middle is at (1, 7): 3 from the sample, which is at 0 there.
    mean, axes = torch.tensor([1.0, 7.0]).double(), torch.tensor([[1.0], [0.0]]).double()
    density = Density(mean, axes, torch.zeros(1, 1).double(), torch.tensor(1.0).double(), torch.empty(0).double())
    peak = -math.log(math.sqrt(2 * math.pi))
    assert density(torch.tensor([[4.0, 99.0], [1.0, -99.0]])).tolist() == pytest.approx([peak - 4.5, peak])
    # Samples of any shape are flattened; numbers of any precision become float64.
    shaped = density(torch.tensor([[[[4.0, 99.0]]]]))
    assert shaped.dtype == torch.float64
    assert shaped.tolist() == pytest.approx([peak - 4.5])


def test_a_density_integrates_to_one():
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64).unsqueeze(1)
    density = estimate(random(6, 1), torch.tensor([0.3, 0.7], dtype=torch.float64))
    assert torch.trapezoid(density(grid).exp(), dx=16 / 4000).item() == pytest.approx(1, abs=1e-9)


def test_own_samples_are_judged_by_the_others_alone():
    reference = random(6, 2)
    _, own = choose_bandwidth(reference, ONE_BANDWIDTH)
    for row in range(6):
        others = torch.cat([reference[:row], reference[row + 1 :]])
        assert own[row].item() == pytest.approx(estimate(others)(reference[row : row + 1]).item())


def test_bandwidth_is_that_by_which_the_own_samples_are_likeliest():
    reference, bandwidths = random(30, 2), torch.tensor([0.01, 0.1, 0.4, 1.0, 10.0], dtype=torch.float64)
    bandwidth, own = choose_bandwidth(reference, bandwidths)
    by_bandwidth = [choose_bandwidth(reference, tried.unsqueeze(0))[1] for tried in bandwidths]
    best = max(range(5), key=lambda tried: by_bandwidth[tried].mean())
    assert best in (1, 2, 3)
    assert bandwidth == bandwidths[best]
    assert torch.equal(own, by_bandwidth[best])


def test_what_is_far_from_everything_or_from_nobodys_samples_is_as_good_as_impossible():
    far = torch.full((1, 1), 1e5, dtype=torch.float64)
    assert estimate(torch.zeros(3, 1).double())(far).tolist() == [LOWEST_LOG_DENSITY]
    nothing = estimate(torch.empty(0, 1).double(), torch.tensor([0.5, 2.0]).double())
    assert nothing(far).tolist() == [LOWEST_LOG_DENSITY]
    assert nothing(far).dtype == torch.float64
    assert nothing.bandwidth == 2
    assert len(nothing.own) == 0


def test_identical_samples_have_a_finite_density():
    density = estimate(torch.zeros(5, 4).double())
    peak = -4 * math.log(0.5 * math.sqrt(2 * math.pi))
    assert density(torch.zeros(2, 4)).tolist() == pytest.approx([peak] * 2)
    assert density.own.tolist() == pytest.approx([peak] * 5)


# -- the space ---------------------------------------------------------------------------------------------------------


def test_few_dimensions_are_kept_as_they_are():
    transfer = random(7, 64)
    mean, axes = shared_space(transfer)
    assert torch.equal(mean, transfer.mean(0))
    assert torch.equal(axes, torch.eye(64, dtype=torch.float64))


def test_many_dimensions_become_the_principal_components_of_the_transfer_set():
    # All that varies lies in three directions of a hundred.
    directions = torch.linalg.qr(random(100, 3, seed=1)).Q.T
    transfer = 5 + random(50, 3) * torch.tensor([9.0, 4.0, 2.0]).double() @ directions
    mean, axes = shared_space(transfer)
    assert axes.shape == (100, 30)
    torch.testing.assert_close(axes.T @ axes, torch.eye(30, dtype=torch.float64), rtol=0, atol=1e-10)
    # Nothing of the samples is lost.
    torch.testing.assert_close((transfer - mean) @ axes @ axes.T + mean, transfer, rtol=0, atol=1e-10)
    assert shared_space(transfer[:5])[1].shape == (100, 5)


# -- of clients --------------------------------------------------------------------------------------------------------


def test_each_client_has_the_density_of_its_training_samples(cohort):
    clients, settings = cohort
    transfer = settings.transfer.inputs.flatten(1)
    spread = transfer.var(0, correction=0).mean().sqrt()
    for client, density in zip(clients, densities_of(clients, settings), strict=True):
        train = client.data.train.inputs.flatten(1)
        expected = estimate(train, spread * density_module.RELATIVE_BANDWIDTHS)
        assert density.bandwidth.item() == pytest.approx(expected.bandwidth.item())
        torch.testing.assert_close(density(settings.transfer.inputs), expected(transfer), rtol=0, atol=1e-8)
        torch.testing.assert_close(density.own, expected.own.sort().values, rtol=0, atol=1e-8)


def test_own_densities_are_those_of_the_training_samples_without_themselves_in_ascending_order(cohort):
    clients, settings = cohort
    for client, density in zip(clients, densities_of(clients, settings), strict=True):
        number = len(client.data.train)
        assert len(density.own) == (number if number > 1 else 0)
        assert (density.own.diff() >= 0).all()
        # Each adds the same to its own density: the kernel at its middle, one of n instead of one of n - 1 more.
        kernel = -len(density.mean) * math.log(math.sqrt(2 * math.pi) * density.bandwidth.item())
        with_itself = density(client.data.train.inputs).sort().values.exp()
        if number > 1:
            expected = (with_itself * number - math.exp(kernel)) / (number - 1)
            torch.testing.assert_close(density.own.exp(), expected, rtol=1e-6, atol=1e-12)


def test_neither_validation_and_test_samples_nor_labels_enter(cohort, make_samples):
    (*_, client), settings = cohort
    data = replace(client.data, validation=make_samples(30, 5), test=make_samples(30, 6))
    data = replace(data, train=replace(data.train, labels=(data.train.labels + 1) % 3))
    before, after = densities_of([client, replace(client, data=data)], settings)
    assert before is not after
    assert torch.equal(before(settings.transfer.inputs), after(settings.transfer.inputs))
    assert torch.equal(before.own, after.own)


def test_of_many_samples_some_are_drawn_and_the_same_each_time(cohort, make_samples, monkeypatch, estimated):
    (client, *_), settings = cohort
    monkeypatch.setattr(density_module, "LARGEST_REFERENCE", 8)
    for _ in range(2):
        many = replace(client, data=replace(client.data, train=make_samples(40, 3)))
        densities_of([many], settings)
    assert len(estimated) == 2
    assert estimated[0].shape == (8, 16)
    assert torch.equal(estimated[0], estimated[1])
    drawn = estimated[0] + settings.transfer.inputs.flatten(1).mean(0)
    train = many.data.train.inputs.flatten(1)
    assert not torch.allclose(drawn, train[:8])
    assert [(one - train).abs().sum(1).min().item() for one in drawn] == pytest.approx([0] * 8, abs=1e-12)


def test_clients_draw_differently_and_by_the_seed_of_the_run(cohort, make_samples, monkeypatch, estimated):
    (client, *_), settings = cohort
    monkeypatch.setattr(density_module, "LARGEST_REFERENCE", 8)
    train = make_samples(40, 3)
    for own, client_id in ((settings, 0), (settings, 1), (replace(settings, seed=8), 0)):
        densities_of([replace(client, client_id=client_id, data=replace(client.data, train=train))], own)
    first, other_client, other_seed = estimated
    assert not torch.equal(first, other_client)
    assert not torch.equal(first, other_seed)


def test_densities_are_estimated_once_for_a_clients_data_a_transfer_set_and_a_seed(cohort, estimated):
    clients, settings = cohort
    client = clients[4]
    other_transfer = replace(settings, transfer=TransferSet(1 + settings.transfer.inputs))
    inputs = settings.transfer.inputs
    told = []
    for own, number in (
        (settings, 1),
        (settings, 1),
        (other_transfer, 2),
        (settings, 3),
        (replace(settings, seed=8), 4),
    ):
        told += densities_of([client], own)
        assert len(estimated) == number
    assert told[0] is told[1]
    assert torch.equal(told[0](inputs), told[3](inputs))
    assert not torch.equal(told[0](inputs), told[2](inputs))


def test_only_whose_density_is_not_known_yet_is_estimated_and_each_gets_its_own(cohort, estimated):
    clients, settings = cohort
    (second,) = densities_of(clients[2:3], settings)
    every = densities_of(clients, settings)
    assert [len(reference) for reference in estimated] == [16, 1, 5, 17, 40]
    assert every[2] is second
    assert [len(density.reference) for density in every] == [1, 5, 16, 17, 40]
    assert densities_of(clients[::-1], settings) == every[::-1]


def test_a_density_is_forgotten_with_the_data_of_its_client(cohort):
    (client, *_), settings = cohort
    gc.collect()
    remembered = len(density_module._DENSITIES)
    temporary = replace(client, data=replace(client.data))
    densities_of([temporary], settings)
    assert len(density_module._DENSITIES) == remembered + 1
    del temporary
    gc.collect()
    assert len(density_module._DENSITIES) == remembered


def test_pixels_in_bytes_are_as_dense_as_the_numbers_they_stand_for(cohort):
    (client, *_), settings = cohort
    pixels = torch.randint(256, (20, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.zeros(10, dtype=torch.int64)
    told = []
    for inputs in (pixels, pixels.double() / 255):
        own = replace(client, data=replace(client.data, train=Samples(inputs[:10], labels)))
        (density,) = densities_of([own], replace(settings, transfer=TransferSet(inputs[10:])))
        told.append(density(inputs))
    torch.testing.assert_close(told[0], told[1], rtol=0, atol=1e-9)


def test_a_client_without_samples_finds_everything_impossible(cohort):
    (client, *_), settings = cohort
    nothing = Samples(torch.empty(0, 1, 4, 4, dtype=torch.float64), torch.empty(0, dtype=torch.int64))
    (density,) = densities_of([replace(client, data=replace(client.data, train=nothing))], settings)
    assert density(settings.transfer.inputs).tolist() == [LOWEST_LOG_DENSITY] * 10
    assert len(density.own) == 0


def test_a_transfer_set_without_spread_gives_bandwidths_all_the_same(cohort):
    (*_, client), settings = cohort
    settings = replace(settings, transfer=TransferSet(settings.transfer.inputs[:1].expand(3, -1, -1, -1)))
    (density,) = densities_of([client], settings)
    assert density.bandwidth in density_module.RELATIVE_BANDWIDTHS
    assert torch.isfinite(density(settings.transfer.inputs)).all()
