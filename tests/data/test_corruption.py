from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from fedfuse.data.corruption import noisy_features, noisy_labels
from fedfuse.data.federation import ClientData
from fedfuse.data.samples import Samples
from fedfuse.errors import ConfigurationError

CONFIGS = Path(__file__).parents[2] / "configs" / "corruption"
CLIENT = {"client": 1, "num_clients": 4, "num_classes": 5, "seed": 0}


def client_data(sizes=(1000, 100, 50), inputs=None):
    def samples(number):
        own = torch.zeros(number, 2) if inputs is None else inputs.expand(number, *inputs.shape).contiguous()
        return Samples(own, torch.arange(number) % 2)

    return ClientData(*map(samples, sizes))


def wrong(before, after):
    return int((before.labels != after.labels).sum())


# noisy_labels


@pytest.mark.parametrize(("rate", "expected"), [(0.0, (0, 0)), (0.3, (300, 30)), (0.0123, (12, 1)), (1.0, (1000, 100))])
def test_exactly_the_rate_of_training_and_validation_labels_becomes_wrong_and_the_test_set_stays_true(rate, expected):
    before = client_data()
    after = noisy_labels(before, **CLIENT, rate=rate)
    assert (wrong(before.train, after.train), wrong(before.validation, after.validation)) == expected
    assert wrong(before.test, after.test) == 0
    assert torch.equal(before.train.inputs, after.train.inputs)


def test_wrong_labels_are_of_all_other_classes_equally_often():
    before = client_data((10_000, 10, 10))
    after = noisy_labels(before, **CLIENT, rate=1.0)
    of_class_0 = torch.bincount(after.train.labels[before.train.labels == 0], minlength=5)
    assert of_class_0[0] == 0
    assert (of_class_0[1:] - 1250).abs().max() < 150


def test_what_was_given_keeps_its_labels():
    before = client_data()
    noisy_labels(before, **CLIENT, rate=1.0)
    assert torch.equal(before.train.labels, torch.arange(1000) % 2)


@pytest.mark.parametrize(("clients", "expected"), [(0.0, 0), (0.3, 3), (0.34, 3), (1.0, 10)])
def test_a_share_of_the_clients_drawn_by_seed_has_wrong_labels(clients, expected):
    def noisy(seed):
        data = client_data()
        corrupted = [noisy_labels(data, client, 10, 5, seed, rate=0.5, clients=clients) for client in range(10)]
        return [client for client, one in enumerate(corrupted) if wrong(data.train, one.train)]

    drawn = [noisy(seed) for seed in range(5)]
    assert {len(one) for one in drawn} == {expected}
    assert noisy(3) == drawn[3]
    assert len(set(map(tuple, drawn))) > 1 or expected in (0, 10)


def test_seed_and_client_decide_which_labels_are_wrong():
    def labels(client, seed):
        return noisy_labels(client_data(), client, 4, 5, seed, rate=0.5).train.labels

    assert torch.equal(labels(0, 0), labels(0, 0))
    assert not torch.equal(labels(0, 0), labels(1, 0))
    assert not torch.equal(labels(0, 0), labels(0, 1))


@pytest.mark.parametrize("values", [{"rate": 1.1}, {"rate": -0.1}, {"rate": float("nan")}, {"clients": 2}])
def test_a_share_that_is_none_is_refused(values):
    (name, value) = next(iter(values.items()))
    with pytest.raises(ConfigurationError, match=rf"^{name}={value} must be a number from 0 to 1"):
        noisy_labels(client_data(), **CLIENT, **values)


# noisy_features


def spread(samples):
    return samples.inputs.std().item()


def test_noise_grows_with_the_client_from_none():
    data = client_data((5000, 500, 500))
    spreads = [spread(noisy_features(data, client, 4, 2, 0, std=2.0).train) for client in range(4)]
    assert spreads == pytest.approx([0.0, 0.5, 1.0, 1.5], rel=0.03)


def test_noise_that_does_not_grow_is_the_same_for_all_and_in_all_three_sets():
    data = client_data((5000, 5000, 5000))
    for client in (0, 3):
        noisy = noisy_features(data, client, 4, 2, 0, std=2.0, growing=False)
        for one in (noisy.train, noisy.validation, noisy.test):
            assert spread(one) == pytest.approx(2.0, rel=0.03)
            assert abs(one.inputs.mean().item()) < 0.06
        assert not torch.equal(noisy.train.inputs, noisy.test.inputs)
        assert torch.equal(noisy.train.labels, data.train.labels)


@pytest.mark.parametrize("client", [0, 3])
def test_pixels_become_numbers_from_0_to_1_and_are_not_cut_off(client):
    data = client_data((2000, 10, 10), torch.tensor([[[0, 255, 51]]], dtype=torch.uint8))
    noisy = noisy_features(data, client, 4, 2, 0, std=0.4).train.inputs
    assert noisy.dtype == torch.float32
    assert noisy.mean(0).flatten().tolist() == pytest.approx([0.0, 1.0, 0.2], abs=0.03)
    assert (noisy.min() < 0) == (noisy.max() > 1) == (client == 3)
    assert data.train.inputs.dtype == torch.uint8


def test_precision_is_kept_and_the_noise_is_the_same_in_both():
    noise = [
        noisy_features(client_data(inputs=torch.zeros(2, dtype=dtype)), **CLIENT).train.inputs
        for dtype in (torch.float32, torch.float64)
    ]
    assert [one.dtype for one in noise] == [torch.float32, torch.float64]
    assert torch.allclose(noise[0].double(), noise[1])


def test_seed_and_client_decide_the_noise():
    def noise(client, seed):
        return noisy_features(client_data(), client, 4, 2, seed, growing=False).train.inputs.numpy()

    assert np.array_equal(noise(1, 0), noise(1, 0))
    assert not np.array_equal(noise(1, 0), noise(2, 0))
    assert not np.array_equal(noise(1, 0), noise(1, 1))


@pytest.mark.parametrize("std", [-0.1, float("inf"), float("nan")])
def test_a_standard_deviation_that_is_none_is_refused(std):
    with pytest.raises(ConfigurationError, match=rf"^std={std} must be a number of at least 0"):
        noisy_features(client_data(), **CLIENT, std=std)


@pytest.mark.parametrize(
    ("corrupt", "arguments"),
    [(noisy_labels, {"rate": 0.2, "clients": 1.0}), (noisy_features, {"std": 0.1, "growing": True})],
)
def test_the_configurations_name_their_corruption(corrupt, arguments):
    configured = instantiate(OmegaConf.load(CONFIGS / f"{corrupt.__name__}.yaml"), _partial_=True)
    assert (configured.func, configured.keywords) == (corrupt, arguments)
