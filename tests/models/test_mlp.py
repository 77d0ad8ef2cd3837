from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from fedfuse.errors import ConfigurationError
from fedfuse.models.mlp import MLP
from fedfuse.models.outputs import Outputs

CONFIGS = Path(__file__).parents[2] / "configs" / "model"


def num_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_computation_is_linear_relu_layers_and_a_linear_head():
    model = MLP((1, 2, 2), num_classes=3, hidden=(5,), embedding_size=2)
    inputs = torch.randn(7, 1, 2, 2)
    first, second, head = (layer for layer in model.modules() if isinstance(layer, nn.Linear))
    features = second(first(inputs.flatten(1)).clamp(min=0)).clamp(min=0)
    outputs = model(inputs)
    assert isinstance(outputs, Outputs)
    assert torch.equal(outputs.features, features)
    assert torch.equal(outputs.logits, head(features))
    assert model.embedding_size == 2


@pytest.mark.parametrize(
    ("hidden", "parameters"),
    [
        ((), (4 * 6 + 6) + (6 * 3 + 3)),
        ((5,), (4 * 5 + 5) + (5 * 6 + 6) + (6 * 3 + 3)),
        ((5, 2), (4 * 5 + 5) + (5 * 2 + 2) + (2 * 6 + 6) + (6 * 3 + 3)),
    ],
)
def test_parameter_counts(hidden, parameters):
    assert num_parameters(MLP((2, 2), num_classes=3, hidden=hidden, embedding_size=6)) == parameters


@pytest.mark.parametrize(("name", "parameters"), [("mlp_small", 4810), ("mlp_large", 17226)])
def test_the_configurations_make_an_mlp_of_the_stated_size(name, parameters):
    model = instantiate(OmegaConf.load(CONFIGS / f"{name}.yaml"), input_shape=[1, 8, 8], num_classes=10)
    assert isinstance(model, MLP)
    assert model.embedding_size == 64
    assert num_parameters(model) == parameters


@pytest.mark.parametrize("widths", [{"hidden": (8, 0)}, {"embedding_size": 0}])
def test_an_empty_layer_is_refused(widths):
    with pytest.raises(ConfigurationError, match="empty layer; every width must be at least 1"):
        MLP((1, 8, 8), 10, **widths)
