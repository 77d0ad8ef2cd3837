import torch

from fedfuse.benchmark.noise import noise


def test_noise_has_its_shape_and_every_class_alike():
    data = noise(23, [1, 4, 4], 10)
    assert data.samples.inputs.shape == (23, 1, 4, 4)
    assert data.samples.inputs.dtype == torch.float32
    assert torch.bincount(data.samples.labels).tolist() == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]
    assert len(data.class_names) == 10


def test_noise_follows_from_its_seed():
    assert torch.equal(noise(5, [3], 2, seed=1).samples.inputs, noise(5, [3], 2, seed=1).samples.inputs)
    assert not torch.equal(noise(5, [3], 2, seed=1).samples.inputs, noise(5, [3], 2, seed=2).samples.inputs)
