from functools import partial

import pytest
import torch
from torch import nn

from fedfuse.client import predict as module
from fedfuse.client.predict import predict
from fedfuse.device import Device, computing_on
from fedfuse.models.architecture import describe
from fedfuse.models.outputs import Outputs


class Noisy(nn.Module):
    """A model that answers differently while it trains."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))

    def forward(self, inputs):
        features = self.layers(inputs)
        return Outputs(features[:, :3], features)


class Counting(nn.Module):
    """A model that tells a list how many rows it is given."""

    def __init__(self, seen):
        super().__init__()
        self.seen, self.layer = seen, nn.Linear(4, 3)

    def forward(self, inputs):
        self.seen.append(len(inputs))
        return Outputs(self.layer(inputs), inputs)


@pytest.mark.parametrize("name", ["small", "wide", "cnn"])
def test_every_client_answers_with_its_own_weights_on_its_own_inputs(architectures, make_samples, name):
    architecture = architectures[name]
    parameters = [architecture.initial_parameters(seed, torch.float64) for seed in range(3)]
    inputs = [make_samples(number, seed).inputs for seed, number in enumerate((1, 5, 2))]
    answers = predict(architecture, parameters, inputs)
    for own, x, outputs in zip(parameters, inputs, answers, strict=True):
        model = architecture.module().double()
        model.load_state_dict(own)
        torch.testing.assert_close(outputs.logits, model(x).logits, rtol=0, atol=1e-14)
        torch.testing.assert_close(outputs.features, model(x).features, rtol=0, atol=1e-14)
        assert outputs.logits.shape == (len(x), 3)
        assert outputs.features.shape == (len(x), architecture.embedding_size)


def test_equal_weights_give_equal_bits_whoever_else_is_asked(architectures, make_samples):
    architecture, inputs = architectures["cnn"], make_samples(7).inputs
    parameters = [architecture.initial_parameters(seed, torch.float64) for seed in range(3)]
    together = predict(architecture, parameters, [inputs] * 3)
    alone = predict(architecture, parameters[1:2], [inputs])
    assert torch.equal(together[1].logits, alone[0].logits)


@pytest.mark.parametrize("number", [0, 2, 3, 4, 7])
def test_many_rows_are_predicted_in_parts_and_put_together_in_order(architectures, make_samples, monkeypatch, number):
    architecture, inputs = architectures["small"], make_samples(number).inputs
    parameters = [architecture.initial_parameters(0, torch.float64)]
    whole = predict(architecture, parameters, [inputs])[0]
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 3)
    parts = predict(architecture, parameters, [inputs])[0]
    assert parts.logits.shape == (number, 3)
    assert parts.features.shape == (number, 5)
    torch.testing.assert_close(parts.logits, whole.logits, rtol=0, atol=1e-14)
    torch.testing.assert_close(parts.features, whole.features, rtol=0, atol=1e-14)


def test_no_more_rows_than_allowed_are_predicted_at_once(monkeypatch):
    seen = []
    architecture = describe("counting", partial(Counting, seen), (4,))
    parameters = [architecture.initial_parameters(0, torch.float32)] * 2
    seen.clear()
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 3)
    predict(architecture, parameters, [torch.randn(7, 4), torch.randn(3, 4)])
    assert seen == [3, 3, 1, 3]


def test_a_prediction_has_no_dropout_uses_the_running_statistics_and_changes_nothing():
    architecture = describe("noisy", partial(Noisy), (4,))
    parameters = architecture.initial_parameters(0, torch.float32)
    parameters["layers.1.running_mean"] += 5
    parameters["layers.0.weight"].requires_grad_()
    before = {name: tensor.clone() for name, tensor in parameters.items()}
    inputs = torch.randn(6, 4)
    outputs = predict(architecture, [parameters], [inputs])[0]
    linear = inputs @ parameters["layers.0.weight"].T + parameters["layers.0.bias"]
    torch.testing.assert_close(outputs.features, (linear - 5) / (1 + 1e-5) ** 0.5)
    assert not outputs.logits.requires_grad
    assert all(torch.equal(parameters[name], tensor) for name, tensor in before.items())


def test_the_global_generator_is_left_as_it_was(architectures, make_samples):
    before = torch.get_rng_state()
    parameters = architectures["small"].initial_parameters(0, torch.float64)
    predict(architectures["small"], [parameters], [make_samples(3).inputs])
    assert torch.equal(torch.get_rng_state(), before)


def test_pixels_are_answered_as_the_numbers_from_0_to_1_that_they_stand_for(architectures):
    architecture = architectures["small"]
    parameters = architecture.initial_parameters(0, torch.float64)
    pixels = (torch.arange(5 * 16) * 37 % 256).to(torch.uint8).reshape(5, 1, 4, 4)
    stored, numbers = predict(architecture, [parameters] * 2, [pixels, pixels.double() / 255])
    assert torch.equal(stored.logits, numbers.logits)
    assert stored.logits.dtype == torch.float64


class Together(Device):
    """The processor, which is computed on as another device is: all clients together."""

    @property
    def is_cuda(self):
        return True


class TwoHeads(nn.Module):
    """A model with a second head and a convolution."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
        self.head, self.other = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, inputs):
        features = self.body(inputs)
        return Outputs(self.head(features), features, self.other(features))


@pytest.mark.parametrize("at_once", [4, 1000])
@pytest.mark.parametrize("model", [TwoHeads, "cnn", "small"])
def test_clients_together_answer_as_each_alone(architectures, make_samples, monkeypatch, model, at_once):
    monkeypatch.setattr(module, "SAMPLES_AT_ONCE", at_once)
    architecture = architectures[model] if isinstance(model, str) else describe("two heads", model, (1, 4, 4))
    parameters = [architecture.initial_parameters(seed, torch.float64) for seed in range(3)]
    ragged = [make_samples(number, number).inputs for number in (4, 0, 7)]
    for inputs in (ragged, [ragged[2]] * 3, [ragged[1]] * 3):
        with computing_on(Together()):
            together = predict(architecture, parameters, inputs)
        alone = predict(architecture, parameters, inputs)
        for own, other in zip(together, alone, strict=True):
            assert len(own) == len(other)
            for output, expected in zip(own, other, strict=True):
                if expected is None:
                    assert output is None
                else:
                    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    with computing_on(Together()):
        assert predict(architecture, [], []) == []


def test_a_model_that_cannot_be_stacked_is_asked_alone_on_every_device():
    def noisy():
        return nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 3))

    architecture = describe("noisy", noisy, (4,))
    assert not architecture.can_be_stacked
    parameters = [architecture.initial_parameters(seed, torch.float64) for seed in range(2)]
    inputs = [torch.randn(3, 4, dtype=torch.float64)] * 2
    with computing_on(Together()):
        others = predict(architecture, parameters, inputs)
    for own, other in zip(predict(architecture, parameters, inputs), others, strict=True):
        assert torch.equal(own.logits, other.logits)
