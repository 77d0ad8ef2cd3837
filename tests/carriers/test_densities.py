import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import MultivariateNormal

from fedfuse.carriers import densities
from fedfuse.carriers.densities import LOWEST_LOG_DENSITY, kernel_density, shared_space
from fedfuse.client.client import first_state
from fedfuse.data.federation import TransferSet
from fedfuse.data.samples import Samples
from fedfuse.knowledge import InvalidKnowledgeError
from fedfuse.messages import Request

ONE_BANDWIDTH = torch.tensor([0.5], dtype=torch.float64)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def cohort(make_clients, make_settings):
    clients, settings = make_clients(("small",)), make_settings()
    return clients, [first_state(client, settings) for client in clients], settings


# -- the estimate ------------------------------------------------------------------------------------------------------


def test_density_is_the_mean_of_gaussians_around_the_samples():
    reference, points = random(5, 3), random(4, 3, seed=1)
    estimated, _ = kernel_density(reference, points, ONE_BANDWIDTH)
    for point, log_density in zip(points, estimated, strict=True):
        kernels = [MultivariateNormal(own, 0.25 * torch.eye(3).double()).log_prob(point).exp() for own in reference]
        assert log_density.item() == pytest.approx(math.log(sum(kernels) / 5), abs=1e-12)


def test_density_of_one_sample_in_numbers_and_with_the_widest_bandwidth():
    bandwidths = torch.tensor([0.1, 2.0, 0.5], dtype=torch.float64)
    estimated, own = kernel_density(torch.zeros(1, 1).double(), torch.tensor([[0.0], [4.0]]).double(), bandwidths)
    # A Gaussian of standard deviation 2: at its middle, and two deviations off.
    middle = -math.log(2 * math.sqrt(2 * math.pi))
    assert estimated.tolist() == pytest.approx([middle, middle - 2])
    assert len(own) == 0


def test_own_samples_are_judged_by_the_others_alone():
    reference = random(6, 2)
    _, own = kernel_density(reference, reference[:1], ONE_BANDWIDTH)
    for row in range(6):
        others = torch.cat([reference[:row], reference[row + 1 :]])
        assert own[row].item() == pytest.approx(kernel_density(others, reference[row : row + 1], ONE_BANDWIDTH)[0][0])


def test_bandwidth_is_that_by_which_the_own_samples_are_likeliest():
    reference, bandwidths = random(30, 2), torch.tensor([0.01, 0.1, 0.4, 1.0, 10.0], dtype=torch.float64)
    estimated, own = kernel_density(reference, random(3, 2, seed=1), bandwidths)
    by_bandwidth = [kernel_density(reference, random(3, 2, seed=1), one.unsqueeze(0)) for one in bandwidths]
    best = max(range(5), key=lambda tried: by_bandwidth[tried][1].mean())
    assert best in (1, 2, 3)
    assert torch.equal(estimated, by_bandwidth[best][0])
    assert torch.equal(own, by_bandwidth[best][1])


def test_what_is_far_from_everything_or_from_nobodys_samples_is_as_good_as_impossible():
    far = torch.full((1, 1), 1e5, dtype=torch.float64)
    assert kernel_density(torch.zeros(3, 1).double(), far, ONE_BANDWIDTH)[0].tolist() == [LOWEST_LOG_DENSITY]
    nothing, own = kernel_density(torch.empty(0, 1).double(), far, ONE_BANDWIDTH)
    assert nothing.tolist() == [LOWEST_LOG_DENSITY]
    assert len(own) == 0


def test_identical_samples_have_a_finite_density():
    estimated, own = kernel_density(torch.zeros(5, 4).double(), torch.zeros(2, 4).double(), ONE_BANDWIDTH)
    peak = -4 * math.log(0.5 * math.sqrt(2 * math.pi))
    assert estimated.tolist() == pytest.approx([peak] * 2)
    assert own.tolist() == pytest.approx([peak] * 5)


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


# -- express -----------------------------------------------------------------------------------------------------------


def test_a_sample_is_denser_to_who_trains_on_its_like(cohort):
    clients, states, settings = cohort
    labels = clients[4].data.train.labels
    circles, stars = (clients[4].data.train.select(torch.nonzero(labels == label).squeeze(1)) for label in (0, 2))
    pair = [replace(clients[0], data=replace(clients[0].data, train=own)) for own in (circles, stars)]
    settings = replace(settings, transfer=TransferSet(torch.cat([circles.inputs + 0.01, stars.inputs + 0.01])))
    rows = torch.arange(len(settings.transfer))
    by_circles, by_stars = densities.express(pair, states[:2], [Request(1, rows=rows)] * 2, settings)
    assert (by_circles["densities"] > by_stars["densities"]).tolist() == [True] * len(circles) + [False] * len(stars)
    assert by_circles["familiarity"][: len(circles)].mean() > 0.5
    assert by_circles["familiarity"][len(circles) :].max() < 0.2


def test_familiarity_is_the_share_of_own_samples_that_are_less_likely(cohort):
    clients, states, settings = cohort
    client = clients[4]
    (own,) = densities.express([client], states[:1], [Request(1, rows=torch.arange(10))], settings)
    flat = [inputs.flatten(1) for inputs in (settings.transfer.inputs, client.data.train.inputs)]
    spread = flat[0].var(0, correction=0).mean().sqrt()
    expected, by_others = kernel_density(flat[1], flat[0], spread * densities.RELATIVE_BANDWIDTHS)
    torch.testing.assert_close(own["densities"], expected, rtol=0, atol=1e-8)
    shares = [(by_others < density).double().mean().item() for density in expected]
    assert own["familiarity"].tolist() == pytest.approx(shares)
    assert len(set(shares)) > 1


def test_rows_that_were_not_asked_for_are_not_told_and_do_not_matter(cohort):
    clients, states, settings = cohort
    whole = densities.express(clients, states, [Request(1, rows=torch.arange(10))] * 5, settings)
    rows = torch.tensor([1, 4, 7])
    some = densities.express(clients, states, [Request(1, rows=rows)] * 5, settings)
    for own, part in zip(whole, some, strict=True):
        assert set(own) == {"densities", "familiarity"}
        assert part["rows"].dtype == torch.int32
        assert part["rows"].tolist() == [1, 4, 7]
        torch.testing.assert_close(part["densities"], own["densities"][rows], rtol=0, atol=1e-9)
        assert torch.equal(part["familiarity"], own["familiarity"][rows])
    with pytest.raises(InvalidKnowledgeError, match="without saying on which rows"):
        densities.express(clients, states, [Request(1)] * 5, settings)


def test_neither_validation_and_test_samples_nor_the_model_nor_the_round_enter(cohort, make_samples):
    (client, *_), (state, other, *_), settings = cohort
    data = replace(client.data, validation=make_samples(30, 5), test=make_samples(30, 6))
    rows = torch.arange(10)
    (before,) = densities.express([client], [state], [Request(1, rows=rows)], settings)
    (after,) = densities.express([replace(client, data=data)], [other], [Request(2, rows=rows)], settings)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_pixels_in_bytes_are_as_dense_as_the_numbers_they_stand_for(cohort):
    (client, *_), states, settings = cohort
    pixels = torch.randint(256, (20, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.zeros(10, dtype=torch.int64)
    told = []
    for inputs in (pixels, pixels.double() / 255):
        own = replace(client, data=replace(client.data, train=Samples(inputs[:10], labels)))
        changed = replace(settings, transfer=TransferSet(inputs[10:]))
        told += densities.express([own], states[:1], [Request(1, rows=torch.arange(10))], changed)
    torch.testing.assert_close(told[0]["densities"], told[1]["densities"], rtol=0, atol=1e-9)


def test_of_many_samples_some_are_drawn_and_the_same_each_time(cohort, make_samples, monkeypatch):
    (client, *_), (state, *_), settings = cohort
    monkeypatch.setattr(densities, "LARGEST_REFERENCE", 8)
    seen = []

    def watched(reference, points, bandwidths):
        seen.append(reference)
        return kernel_density(reference, points, bandwidths)

    monkeypatch.setattr(densities, "kernel_density", watched)
    for round in (1, 2):
        many = replace(client, data=replace(client.data, train=make_samples(40, 3)))
        densities.express([many], [state], [Request(round, rows=torch.arange(10))], settings)
    assert len(seen) == 2
    assert seen[0].shape == (8, 16)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0] + settings.transfer.inputs.flatten(1).mean(0), many.data.train.inputs[:8].flatten(1))


def test_densities_are_estimated_once_for_a_clients_data_a_transfer_set_and_a_seed(cohort, monkeypatch):
    clients, states, settings = cohort
    estimated = []

    def watched(reference, points, bandwidths):
        estimated.append(len(reference))
        return kernel_density(reference, points, bandwidths)

    monkeypatch.setattr(densities, "kernel_density", watched)
    client = replace(clients[4], data=replace(clients[4].data))  # of which nothing is known yet
    other_transfer = replace(settings, transfer=TransferSet(1 + settings.transfer.inputs))
    told = []
    for own, number in (
        (settings, 1),
        (settings, 1),
        (other_transfer, 2),
        (settings, 3),
        (replace(settings, seed=8), 4),
    ):
        told += densities.express([client], states[:1], [Request(1, rows=torch.arange(10))], own)
        assert len(estimated) == number
    assert torch.equal(told[0]["densities"], told[1]["densities"])
    assert torch.equal(told[0]["densities"], told[3]["densities"])
    assert not torch.equal(told[0]["densities"], told[2]["densities"])


def test_a_client_without_samples_finds_everything_impossible_and_nothing_familiar(cohort):
    (client, *_), (state, *_), settings = cohort
    nothing = Samples(torch.empty(0, 1, 4, 4, dtype=torch.float64), torch.empty(0, dtype=torch.int64))
    client = replace(client, data=replace(client.data, train=nothing))
    (own,) = densities.express([client], [state], [Request(1, rows=torch.arange(10))], settings)
    assert own["densities"].tolist() == [LOWEST_LOG_DENSITY] * 10
    assert own["familiarity"].tolist() == [0] * 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_densities_travel_in_the_precision_of_the_run_also_of_a_single_transfer_sample(cohort, dtype):
    clients, states, settings = cohort
    settings = replace(settings, dtype=dtype, transfer=TransferSet(settings.transfer.inputs[:1]))
    expressed = densities.express(clients, states, [Request(1, rows=torch.arange(1))] * 5, settings)
    for own in expressed:
        assert {tensor.dtype for tensor in own.values()} == {dtype}
        assert torch.isfinite(own["densities"]).all()


# -- check -------------------------------------------------------------------------------------------------------------


def valid(number=10, **changes):
    return {"densities": torch.full((number,), -3.0), "familiarity": torch.full((number,), 0.5)} | changes


def test_densities_on_the_rows_that_were_asked_for_are_accepted(make_clients, make_expectation):
    client, rows = make_clients()[0], torch.tensor([1, 4, 7])
    densities.check(valid(), make_expectation(client))
    densities.check(valid(3, rows=rows.to(torch.int32)), make_expectation(client, 1, rows))
    densities.check(valid(familiarity=torch.tensor([0.0, 1.0] * 5)), make_expectation(client))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"densities": torch.zeros(10)}, "came as"),
        (valid(rows=torch.arange(10)), "came as"),
        (valid(9), r"densities has shape \[9\], expected \[10\]"),
        (valid(densities=torch.zeros(10, 1)), r"densities has shape \[10, 1\]"),
        (valid(familiarity=torch.zeros(9)), r"familiarity has shape \[9\]"),
        (valid(densities=torch.zeros(10).half()), r"densities has type torch\.float16"),
        (valid(familiarity=torch.zeros(10, dtype=torch.int64)), r"familiarity has type torch\.int64"),
        (valid(familiarity=torch.full((10,), 1.01)), "not between 0 and 1"),
        (valid(familiarity=torch.full((10,), -0.01)), "not between 0 and 1"),
    ],
)
def test_other_densities_are_refused(make_clients, make_expectation, tensors, message):
    with pytest.raises(InvalidKnowledgeError, match=message):
        densities.check(tensors, make_expectation(make_clients()[0]))


def test_densities_on_other_rows_are_refused(make_clients, make_expectation):
    expected = make_expectation(make_clients()[0], 1, torch.tensor([1, 4, 7]))
    with pytest.raises(InvalidKnowledgeError, match="on other transfer rows"):
        densities.check(valid(3, rows=torch.tensor([1, 4, 8], dtype=torch.int32)), expected)
    with pytest.raises(InvalidKnowledgeError, match="came as"):
        densities.check(valid(3), expected)


# -- stack and absorb --------------------------------------------------------------------------------------------------


def test_stacking_puts_each_clients_densities_in_their_rows(make_clients, make_expectation):
    client, rows = make_clients()[0], [torch.tensor([0, 3]), torch.tensor([3, 9])]
    tensors = [valid(2, densities=torch.tensor([-1.0, -2.0]) * factor) for factor in (1, 10)]
    stacked = densities.stack(tensors, [make_expectation(client, 1, own) for own in rows])
    assert set(stacked) == {"densities", "familiarity", "mask"}
    assert stacked["densities"].tolist() == [[-1, 0, 0, -2] + [0] * 6, [0, 0, 0, -10] + [0] * 5 + [-20]]
    assert [row.nonzero().flatten().tolist() for row in stacked["mask"]] == [[0, 3], [3, 9]]
    assert torch.equal(stacked["familiarity"], 0.5 * stacked["mask"])


def test_densities_cannot_be_absorbed(cohort):
    clients, states, settings = cohort
    with pytest.raises(InvalidKnowledgeError, match="densities cannot be absorbed"):
        densities.absorb(clients, states, [Request(1)] * 5, settings, None)
