import pytest
import torch

from fedfuse.errors import ConfigurationError
from fedfuse.models.logistic_regression import LogisticRegression


def test_the_computation_is_one_linear_layer_on_the_flattened_sample():
    model = LogisticRegression((1, 2, 3), num_classes=4)
    inputs = torch.randn(5, 1, 2, 3)
    weight, bias = model.parameters()
    assert (weight.shape, bias.shape, model.embedding_size) == ((4, 6), (4,), 6)
    outputs = model(inputs)
    assert torch.equal(outputs.features, inputs.reshape(5, 6))
    torch.testing.assert_close(outputs.logits, inputs.reshape(5, 6) @ weight.T + bias)


def test_an_empty_sample_is_refused():
    with pytest.raises(ConfigurationError, match=r"samples that are not empty, not \[0, 3\]"):
        LogisticRegression((0, 3), 2)
