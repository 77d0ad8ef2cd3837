import math
from dataclasses import replace

import pytest
import torch

from fedfuse.carriers import densities
from fedfuse.client.client import first_state
from fedfuse.client.density import LOWEST_LOG_DENSITY, densities_of
from fedfuse.data.federation import TransferSet
from fedfuse.data.samples import Samples
from fedfuse.knowledge import InvalidKnowledgeError
from fedfuse.messages import Request


@pytest.fixture
def cohort(make_clients, make_settings):
    clients, settings = make_clients(("small",)), make_settings()
    return clients, [first_state(client, settings) for client in clients], settings


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


def test_densities_are_those_of_the_clients_training_samples(cohort):
    clients, states, settings = cohort
    expressed = densities.express(clients, states, [Request(1, rows=torch.arange(10))] * 5, settings)
    for own, density in zip(expressed, densities_of(clients, settings), strict=True):
        assert torch.equal(own["densities"], density(settings.transfer.inputs))


def test_familiarity_is_the_share_of_own_samples_that_are_less_likely(cohort):
    """Densities by hand, of each sample and of each own one by the others, over the bandwidth that suits them best."""
    clients, states, settings = cohort
    client = clients[4]
    (own,) = densities.express([client], states[:1], [Request(1, rows=torch.arange(10))], settings)
    points, known = (inputs.flatten(1) for inputs in (settings.transfer.inputs, client.data.train.inputs))
    spread = points.var(0, correction=0).mean().sqrt().item()

    def log_densities(reference, points, bandwidth):
        kernels = -(points.unsqueeze(1) - reference).square().sum(2) / (2 * bandwidth**2)
        kernels = kernels - 16 * math.log(math.sqrt(2 * math.pi) * bandwidth)
        return torch.logsumexp(kernels, 1) - math.log(len(reference))

    def by_the_others(bandwidth):
        rows = range(len(known))
        others = [torch.cat([known[:row], known[row + 1 :]]) for row in rows]
        return torch.cat([log_densities(others[row], known[row : row + 1], bandwidth) for row in rows])

    bandwidths = [spread * 0.05 * 40 ** (step / 15) for step in range(16)]
    best = max(bandwidths, key=lambda tried: by_the_others(tried).mean())
    expected = log_densities(known, points, best)
    torch.testing.assert_close(own["densities"], expected, rtol=0, atol=1e-8)
    shares = [(by_the_others(best) < density).double().mean().item() for density in expected]
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
