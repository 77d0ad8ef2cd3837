import math

import numpy as np
import pytest
import torch

from fedfuse.assembly import load_federation
from fedfuse.composition import compose
from fedfuse.data.sources.synthetic import bayes_accuracy, label_mixes, synthetic
from fedfuse.errors import ConfigurationError


def normal_distribution(value):
    return (1 + math.erf(value / math.sqrt(2))) / 2


def best_guesses(inputs, means, prior):
    """Classify by Bayes' rule, with the densities written out."""
    distances = ((inputs[:, None] - means) ** 2).sum(2)
    with np.errstate(divide="ignore"):
        return (np.log(prior) - distances / 2).argmax(1)


# synthetic


def test_samples_are_dealt_evenly_to_natural_clients():
    data = synthetic(samples=103, num_clients=10, classes=4, dimensions=7)
    assert data.samples.inputs.shape == (103, 7)
    assert data.samples.inputs.dtype == torch.float32
    assert np.bincount(data.natural_clients.members).tolist() == [11] * 3 + [10] * 7
    assert data.class_names == ("class 0", "class 1", "class 2", "class 3")
    assert data.natural_clients.names[9] == "client 9"


@pytest.mark.parametrize(("classes", "dimensions"), [(2, 1), (2, 5), (4, 3), (6, 16)])
def test_class_means_are_all_equally_far_apart_and_around_zero(classes, dimensions):
    data = synthetic(40_000, 1, classes, dimensions, separation=5.0, alpha=1e6)
    inputs, labels = data.samples.inputs.double(), data.samples.labels
    means = torch.stack([inputs[labels == label].mean(0) for label in range(classes)])
    distances = torch.pdist(means)
    torch.testing.assert_close(distances, torch.full_like(distances, 5.0), atol=0.1, rtol=0)
    torch.testing.assert_close(means.mean(0), torch.zeros(dimensions, dtype=torch.float64), atol=0.05, rtol=0)
    noise = inputs - means[labels]
    torch.testing.assert_close(noise.T.cov(), torch.eye(dimensions).double().squeeze(), atol=0.05, rtol=0)


def test_means_are_turned_so_that_every_dimension_tells_something():
    one, other = (synthetic(20_000, 1, 2, 3, separation=100.0, seed=seed).samples for seed in (0, 1))
    for samples in (one, other):
        gap = samples.inputs[samples.labels == 0].mean(0) - samples.inputs[samples.labels == 1].mean(0)
        assert (gap.abs() > 1).all()


def test_a_clients_labels_come_from_its_own_mix():
    data = synthetic(100_000, num_clients=10, classes=4, alpha=0.5, seed=3)
    mixes = label_mixes(10, 4, 0.5, seed=3)
    labels, clients = data.samples.labels.numpy(), data.natural_clients.members
    counts = np.stack([np.bincount(labels[clients == client], minlength=4) for client in range(10)])
    np.testing.assert_allclose(counts / 10_000, mixes, atol=0.025)
    assert mixes.std(0).min() > 0.1


def test_a_large_alpha_makes_all_clients_alike_and_a_small_one_leaves_them_one_class():
    np.testing.assert_allclose(label_mixes(50, 4, 1e6, 0), 0.25, atol=0.01)
    np.testing.assert_allclose(label_mixes(50, 4, 1e-6, 0).max(1), 1)
    np.testing.assert_allclose(label_mixes(50, 4, 0.3, 0).sum(1), 1)


def test_each_client_has_an_offset_of_the_given_length():
    same = synthetic(60_000, num_clients=6, dimensions=8, feature_shift=0.0)
    shifted = synthetic(60_000, num_clients=6, dimensions=8, feature_shift=4.0)
    assert torch.equal(same.samples.labels, shifted.samples.labels)
    offsets = (shifted.samples.inputs - same.samples.inputs).double()
    clients = torch.from_numpy(same.natural_clients.members)
    own = torch.stack([offsets[clients == client][0] for client in range(6)])
    torch.testing.assert_close(offsets, own[clients], atol=1e-5, rtol=0)
    torch.testing.assert_close(own.norm(dim=1), torch.full((6,), 4.0, dtype=torch.float64), atol=1e-5, rtol=0)
    assert torch.pdist(own).min() > 1


def test_the_seed_decides_every_draw():
    one, again, other = (synthetic(500, feature_shift=1.0, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.samples.inputs, again.samples.inputs)
    assert torch.equal(one.samples.labels, again.samples.labels)
    assert not torch.equal(one.samples.labels, other.samples.labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 9}, "samples must be a whole number of at least 10, not 9"),
        ({"samples": 1e3}, "samples must be a whole number of at least 10, not 1000.0"),
        ({"num_clients": 0}, "num_clients must be a whole number of at least 1, not 0"),
        ({"num_clients": True}, "num_clients must be a whole number of at least 1, not True"),
        ({"classes": 1}, "classes must be a whole number of at least 2, not 1"),
        ({"dimensions": 3}, "dimensions must be a whole number of at least 4, not 3"),
        ({"separation": -1.0}, "separation must be a number of at least 0, not -1.0"),
        ({"feature_shift": math.inf}, "feature_shift must be a number of at least 0, not inf"),
        ({"feature_shift": "far"}, "feature_shift must be a number of at least 0, not 'far'"),
        ({"alpha": 0}, "alpha=0 must be a positive number"),
        ({"seed": -1}, "seed must be a whole number of at least 0, not -1"),
    ],
)
def test_values_out_of_range_are_refused(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        synthetic(**arguments)


def test_the_clients_of_a_run_are_those_of_the_data():
    configuration = compose(["data=synthetic", "num_clients=7", "data.samples=700", "data.alpha=0.5"])
    assert configuration.partition.name == "natural"
    federation = load_federation(configuration)
    data = synthetic(700, num_clients=7, alpha=0.5)
    own = [data.samples.inputs[torch.from_numpy(data.natural_clients.members == client)] for client in range(7)]
    for client, all_of_it in zip(federation.clients, own, strict=True):
        known = {row.numpy().tobytes() for row in all_of_it}
        assert all(row.numpy().tobytes() in known for row in client.train.inputs)


# bayes_accuracy


@pytest.mark.parametrize("separation", [0.1, 1.0, 3.0, 8.0])
def test_two_equally_likely_classes_have_a_closed_form(separation):
    expected = normal_distribution(separation / 2)
    assert bayes_accuracy(separation, np.array([0.5, 0.5])) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("first", [0.01, 0.3, 0.9])
@pytest.mark.parametrize("separation", [0.2, 2.0, 5.0])
def test_two_classes_of_any_prior_have_a_closed_form(first, separation):
    threshold = math.log(first / (1 - first)) / separation
    expected = first * normal_distribution(separation / 2 + threshold)
    expected += (1 - first) * normal_distribution(separation / 2 - threshold)
    assert bayes_accuracy(separation, np.array([first, 1 - first])) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("prior", [[0.2] * 5, [0.5, 0.3, 0.1, 0.07, 0.03], [0.6, 0.4, 0.0, 0.0, 0.0]])
@pytest.mark.parametrize("separation", [1.0, 3.0])
def test_it_is_the_accuracy_of_bayes_rule_on_many_samples(prior, separation):
    generator = np.random.default_rng(0)
    labels = generator.choice(5, 200_000, p=prior)
    means = separation / math.sqrt(2) * np.eye(5)
    guesses = best_guesses(generator.normal(size=(200_000, 5)) + means[labels], means, np.array(prior))
    # Five standard errors of an accuracy estimated on so many samples.
    expected = bayes_accuracy(separation, np.array(prior))
    assert (guesses == labels).mean() == pytest.approx(expected, abs=5 * math.sqrt(expected * (1 - expected) / 200_000))


def test_it_is_reached_on_the_data_by_whoever_knows_mix_and_offset_and_not_by_others():
    data = synthetic(200_000, num_clients=4, classes=5, dimensions=8, alpha=1.0, feature_shift=3.0, seed=1)
    plain = synthetic(200_000, num_clients=4, classes=5, dimensions=8, alpha=1.0, feature_shift=0.0, seed=1)
    inputs, labels = data.samples.inputs.double().numpy(), data.samples.labels.numpy()
    unshifted, clients = plain.samples.inputs.double().numpy(), data.natural_clients.members
    means = np.stack([unshifted[labels == label].mean(0) for label in range(5)])
    mixes = label_mixes(4, 5, 1.0, seed=1)
    for client in range(4):
        own = clients == client
        offset = inputs[own][0] - unshifted[own][0]
        expected = bayes_accuracy(3.0, mixes[client])
        knowing = (best_guesses(inputs[own] - offset, means, mixes[client]) == labels[own]).mean()
        assert knowing == pytest.approx(expected, abs=0.01)
        assert (best_guesses(inputs[own], means, mixes[client]) == labels[own]).mean() < expected - 0.01
        assert (best_guesses(inputs[own] - offset, means, np.full(5, 0.2)) == labels[own]).mean() < expected


def test_without_separation_only_the_prior_helps_and_with_much_nothing_goes_wrong():
    prior = np.array([0.2, 0.5, 0.3])
    assert bayes_accuracy(0, prior) == 0.5
    assert bayes_accuracy(1e-6, prior) == pytest.approx(0.5)
    assert bayes_accuracy(60.0, prior) == pytest.approx(1.0, rel=1e-12)
    assert bayes_accuracy(3.0, np.array([0.0, 1.0])) == pytest.approx(1.0, rel=1e-12)
