import pytest
import torch

from fedfuse import sketch
from fedfuse.fusion import pairwise_divergence
from fedfuse.sketch import nearest


def clustered(num_clients=600, num_clusters=12, size=400, noise=0.4, dtype=torch.float32):
    """Distributions of clients, cluster after cluster, in turns."""
    generator = torch.Generator().manual_seed(0)
    centres = 2 * torch.randn(num_clusters, size, generator=generator)
    own = noise * torch.randn(num_clients, size, generator=generator)
    return torch.softmax(centres[torch.arange(num_clients) % num_clusters] + own, 1).to(dtype)


def recall(found, distributions):
    number = found.clients.shape[1]
    exact = pairwise_divergence(distributions, "kl").topk(number, largest=False).indices
    return (found.clients.unsqueeze(2) == exact.unsqueeze(1)).any(2).double().mean().item()


def test_in_planted_clusters_almost_all_of_the_nearest_are_found_among_few_candidates():
    distributions = clustered()
    # Groups of 32 are compared with 200 of 600; each cluster has 50, and a group may be of several.
    assert recall(nearest(distributions, 16, candidates=200), distributions) >= 0.95


def test_with_all_as_candidates_none_is_missed():
    distributions = clustered(noise=3.0)
    assert recall(nearest(distributions, 16, candidates=600), distributions) >= 0.9999
    assert recall(nearest(distributions, 16, candidates=64), distributions) < 0.9


@pytest.mark.parametrize("smoothing", [1e-3, 0.1])
def test_divergences_are_exact_and_ascend_from_oneself(smoothing):
    distributions = clustered(dtype=torch.float64)
    found = nearest(distributions, 5, smoothing, candidates=100)
    exact = pairwise_divergence(distributions, "kl", smoothing).gather(1, found.clients)
    torch.testing.assert_close(found.relevance, exact, rtol=0, atol=1e-12)
    assert torch.equal(found.clients[:, 0], torch.arange(600))
    assert (found.relevance[:, 0] == 0).all()
    assert (found.relevance.diff(dim=1) >= 0).all()


def test_nobody_is_found_twice_and_the_same_ones_every_time():
    distributions = clustered()
    before = distributions.clone()
    found = nearest(distributions, 16, candidates=64)
    assert all(len(set(row)) == 16 for row in found.clients.tolist())
    assert torch.equal(found.clients, nearest(distributions, 16, candidates=64).clients)
    assert torch.equal(distributions, before)


def test_of_fewer_clients_than_asked_for_all_are_found():
    found = nearest(clustered(num_clients=3), 16)
    assert found.clients.sort(1).values.tolist() == [[0, 1, 2]] * 3


def test_a_sketch_keeps_distances_roughly():
    distributions = clustered(num_clients=200)
    exact = torch.cdist(distributions.sqrt(), distributions.sqrt())
    sketched = torch.cdist(sketch.sketch(distributions), sketch.sketch(distributions))
    others = ~torch.eye(200, dtype=torch.bool)
    ratios = (sketched / exact)[others]
    assert ratios.mean().item() == pytest.approx(1, abs=0.05)
    assert 0.6 < ratios.min() < ratios.max() < 1.4
