import pytest
from torch import nn
from torch.nn import functional

from fedfuse.configuration import RUNNERS as CONFIGURABLE
from fedfuse.engine import sequential, stacked
from fedfuse.engine.runner import LARGEST_STACKED, RUNNERS, choose_runner
from fedfuse.errors import ConfigurationError
from fedfuse.models.architecture import describe
from fedfuse.models.mlp import MLP
from fedfuse.models.outputs import Outputs


class Layers(nn.Module):
    """A perceptron with further layers on its features."""

    def __init__(self, *layers):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), *layers)

    def forward(self, inputs):
        features = self.body(inputs)
        return Outputs(features[:, :3], features)


class Unheard(nn.Module):
    """A layer that torch does not have."""

    def forward(self, inputs):
        return inputs


def with_layers(*layers):
    return describe("layers", lambda: Layers(*layers), (1, 4, 4))


def perceptron(num_parameters):
    """Describe a perceptron of one input and one class: it has 3 * embedding_size + 1 parameters."""
    return describe("large", lambda: MLP((1,), 1, hidden=(), embedding_size=(num_parameters - 1) // 3), (1,))


@pytest.mark.parametrize(("name", "fit"), [("small", stacked.fit), ("wide", stacked.fit), ("cnn", sequential.fit)])
def test_auto_stacks_perceptrons_and_trains_convolutional_networks_one_by_one(architectures, name, fit):
    assert choose_runner("auto", architectures[name]) is fit


def test_auto_stacks_up_to_a_size():
    largest, too_large = perceptron(LARGEST_STACKED), perceptron(LARGEST_STACKED + 3)
    assert largest.num_parameters == LARGEST_STACKED == 160_000
    assert too_large.num_parameters == LARGEST_STACKED + 3
    assert choose_runner("auto", largest) is stacked.fit
    assert choose_runner("auto", too_large) is sequential.fit
    assert choose_runner("stacked", too_large) is stacked.fit


@pytest.mark.parametrize(
    ("layer", "fit"),
    [
        (nn.ReLU(), stacked.fit),
        (nn.LayerNorm(4), stacked.fit),
        (nn.Tanh(), stacked.fit),
        (nn.GroupNorm(2, 4), sequential.fit),
        (Unheard(), sequential.fit),
    ],
)
def test_auto_stacks_only_layers_that_it_knows(layer, fit):
    assert choose_runner("auto", with_layers(layer)) is fit


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.GroupNorm(2, 4), nn.Conv1d(4, 4, 1), Unheard()], ids=str)
def test_on_cuda_auto_stacks_whatever_can_be_stacked(layer):
    architecture = with_layers(nn.Unflatten(1, (4, 1)), layer, nn.Flatten())
    assert choose_runner("auto", architecture, on_cuda=True) is stacked.fit
    assert choose_runner("stacked", architecture, on_cuda=True) is stacked.fit
    assert choose_runner("sequential", architecture, on_cuda=True) is sequential.fit
    assert choose_runner("auto", perceptron(LARGEST_STACKED + 3), on_cuda=True) is stacked.fit


@pytest.mark.parametrize("on_cuda", [False, True])
@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize(
    "layer",
    [nn.Dropout(0.1), nn.AlphaDropout(0.1), nn.FeatureAlphaDropout(0.1), nn.BatchNorm1d(4), nn.SyncBatchNorm(4)],
    ids=lambda layer: type(layer).__name__,
)
def test_dropout_and_batch_normalisation_are_never_stacked(runner, layer, on_cuda):
    assert choose_runner(runner, with_layers(layer), on_cuda) is sequential.fit


@pytest.mark.parametrize("name", ["small", "cnn"])
def test_a_runner_is_what_was_asked_for(architectures, name):
    assert choose_runner("sequential", architectures[name]) is sequential.fit
    assert choose_runner("stacked", architectures[name]) is stacked.fit


@pytest.mark.parametrize(
    ("wrong", "hint"), [("stakced", "Did you mean 'stacked'?"), ("Auto", "Did you mean 'auto'?"), ("ray", "Valid:")]
)
def test_an_unknown_runner_is_refused_with_the_nearest_name(architectures, wrong, hint):
    with pytest.raises(ConfigurationError) as error:
        choose_runner(wrong, architectures["cnn"])
    assert f"Unknown engine.runner {wrong!r}." in str(error.value)
    assert hint in str(error.value)
    assert str(error.value).endswith("Valid: auto, probe, sequential, stacked.")


def test_the_runners_are_those_that_can_be_configured():
    assert RUNNERS == CONFIGURABLE


class FunctionalDropout(Layers):
    """Dropout that no layer tells of."""

    def forward(self, inputs):
        outputs = super().forward(inputs)
        return Outputs(outputs.logits, functional.dropout(outputs.features, training=self.training))


@pytest.mark.parametrize("name", RUNNERS)
def test_a_model_that_torch_cannot_run_stacked_is_trained_one_client_at_a_time(name):
    assert choose_runner(name, describe("drawing", FunctionalDropout, (1, 4, 4))) is sequential.fit


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 4)
        self.head.weight = self.body.weight

    def forward(self, inputs):
        features = self.body(inputs)
        return Outputs(self.head(features), features)


@pytest.mark.parametrize("name", RUNNERS)
def test_a_model_with_tied_parameters_is_trained_one_client_at_a_time(name):
    assert choose_runner(name, describe("tied", Tied, (4,))) is sequential.fit


def test_what_was_measured_decides_for_each_architecture_and_the_rule_where_nothing_was(architectures):
    small, cnn = architectures["small"], architectures["cnn"]
    measured = {small.signature: "sequential", cnn.signature: "stacked"}
    assert choose_runner(measured, small) is sequential.fit
    assert choose_runner(measured, cnn) is stacked.fit
    for name in ({}, "probe"):
        assert choose_runner(name, small) is stacked.fit
        assert choose_runner(name, cnn) is sequential.fit
