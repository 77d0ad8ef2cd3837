from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from sklearn.datasets import load_digits

from fedfuse.data.sources.digits import digits

CONFIG = Path(__file__).parents[3] / "configs" / "data" / "digits.yaml"


def test_digits_are_the_images_of_scikit_learn_scaled_to_one():
    samples = digits().samples
    assert samples.inputs.shape == (1797, 1, 8, 8)
    assert samples.inputs.dtype == torch.float32
    assert (samples.inputs.min(), samples.inputs.max()) == (0, 1)
    expected = torch.from_numpy(load_digits().data).reshape(1797, 1, 8, 8)
    assert torch.equal(samples.inputs.double() * 16, expected)


def test_labels_name_their_digits():
    data = digits()
    assert data.class_names == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    assert torch.bincount(data.samples.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_the_configuration_makes_the_digits():
    assert torch.equal(instantiate(OmegaConf.load(CONFIG)).samples.inputs, digits().samples.inputs)
