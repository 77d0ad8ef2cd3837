"""What holds for every model that has a name, whatever the shape of a sample and the number of classes."""

import math
import sys
from functools import partial
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedfuse import catalogue
from fedfuse.assembly import make_architectures
from fedfuse.client.fit import FitJob, Stream, Term, batch_plan
from fedfuse.components import build
from fedfuse.composition import compose
from fedfuse.configuration import Component, OptimizerSettings
from fedfuse.data.federation import Shared, TransferSet
from fedfuse.engine import sequential, stacked
from fedfuse.engine.runner import choose_runner
from fedfuse.errors import ConfigurationError
from fedfuse.models.architecture import describe
from fedfuse.objectives.cross_entropy import CrossEntropy

FOLDERS = catalogue.folders()
NAMES = [name for name in catalogue.names("model", FOLDERS) if name != "custom"]
ANY_SHAPE = ["logistic_regression", "mlp_large", "mlp_small", "small"]
SERIES = "cnn_1d"
FOR_IMAGES = [name for name in NAMES if name != SERIES]
STACKED_BY_ITSELF = {"logistic_regression", "mlp_large", "mlp_small"}
SHAPES = [
    *(
        (name, shape)
        for name in FOR_IMAGES
        for shape in ((1, 8, 8), (1, 16, 16), (1, 28, 28), (3, 32, 32), (3, 96, 96))
    ),
    *((name, shape) for name in (*ANY_SHAPE, SERIES) for shape in ((30,), (9, 128))),
]


def build_module(name, shape, num_classes=10, **changes):
    values = catalogue.read("model", name, FOLDERS) | changes
    component = Component(name, values.pop("_target_"), values)
    return build(component, "model", input_shape=shape, num_classes=num_classes)


def architecture_of(name, **changes):
    shape = smallest_shape(name)
    return describe(name, partial(build_module, name, shape, 3, **changes), shape, 3)


def smallest_shape(name):
    return (2, 12) if name == SERIES else (1, 8, 8)


def samples_for(name, number=6):
    return torch.randn(number, *smallest_shape(name), generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def test_the_zoo_has_what_it_should():
    families = {"logistic_regression", "mlp_small", "mlp_large", "cnn_small", "lenet", "resnet8", "resnet20"}
    assert families | {"mobilenet", "vit_tiny", "cnn_1d", "small"} <= set(NAMES)


@pytest.mark.parametrize(("name", "shape"), SHAPES)
def test_it_serves_any_shape_and_number_of_classes(name, shape):
    inputs = torch.rand(2, *shape)
    for num_classes in (2, 10, 100):
        module = build_module(name, shape, num_classes).eval()
        with torch.no_grad():
            outputs = module(inputs)
        assert outputs.logits.shape == (2, num_classes)
        assert outputs.features.shape == (2, module.embedding_size)
        torch.testing.assert_close(module.head(outputs.features), outputs.logits)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "logistic_regression"])
def test_features_are_of_one_width_that_can_be_changed(name):
    assert architecture_of(name).embedding_size == 64
    assert architecture_of(name, embedding_size=24).embedding_size == 24


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter(name):
    torch.manual_seed(0)
    module = build_module(name, smallest_shape(name)).double()
    outputs = module(samples_for(name))
    torch.autograd.backward(functional.cross_entropy(outputs.logits, torch.arange(6)))
    without = [key for key, parameter in module.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert without == []


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_depends_on_its_own_sample_only(name):
    module = build_module(name, smallest_shape(name)).double().train()
    inputs = samples_for(name)
    alone = torch.cat([module(one).logits for one in inputs.split(1)])
    torch.testing.assert_close(alone, module(inputs).logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_double_precision_gives_the_same_with_less_error(name):
    module = build_module(name, smallest_shape(name))
    inputs = samples_for(name)
    single = module(inputs.float()).logits
    double = module.double()(inputs).logits
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_gives_the_same_parameters_and_leaves_the_global_generator(name):
    before = torch.get_rng_state()
    architecture = architecture_of(name)
    first, again, other = (architecture.initial_parameters(seed, torch.float32) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)
    assert architecture.num_parameters == sum(tensor.numel() for tensor in first.values())
    assert architecture.flops > 0


def jobs_of(architecture):
    """Three clients of 1, 5 and 6 samples, with batches of 4."""
    jobs = []
    for client, number in enumerate((1, 5, 6)):
        inputs, labels = samples_for(architecture.name)[:number], torch.arange(number) % 3
        order = torch.randperm(number, generator=torch.Generator().manual_seed(client)).unsqueeze(0)
        jobs.append(
            FitJob(
                architecture,
                architecture.initial_parameters(client, torch.float64),
                {"private": Stream({"inputs": inputs, "labels": labels}, batch_plan(order, 4))},
                (Term("private", CrossEntropy()),),
                OptimizerSettings(lr=0.1, momentum=0.5),
            )
        )
    return jobs


@pytest.mark.parametrize("name", NAMES)
def test_training_many_at_once_is_training_one_by_one(name):
    architecture = architecture_of(name)
    assert choose_runner("stacked", architecture) is stacked.fit
    jobs = jobs_of(architecture)
    for job, one, many in zip(jobs, sequential.fit(jobs), stacked.fit(jobs), strict=True):
        for key, tensor in one.parameters.items():
            torch.testing.assert_close(many.parameters[key], tensor, rtol=0, atol=1e-8)
        assert any(not torch.equal(one.parameters[key], job.parameters[key]) for key in job.parameters)


@pytest.mark.parametrize("name", NAMES)
def test_perceptrons_are_trained_at_once_and_others_one_by_one(name):
    expected = stacked.fit if name in STACKED_BY_ITSELF else sequential.fit
    assert choose_runner("auto", architecture_of(name)) is expected


@pytest.mark.parametrize("name", ["resnet8", "resnet20", "mobilenet"])
def test_batch_normalisation_is_an_option_that_trains_one_by_one_even_on_one_sample(name):
    architecture = architecture_of(name, norm="batch")
    assert choose_runner("stacked", architecture) is sequential.fit
    of_one, of_five, of_six = sequential.fit(jobs_of(architecture))
    counts = {
        key: [int(result.parameters[key]) for result in (of_one, of_five, of_six)]
        for key in architecture.shapes
        if key.endswith("num_batches_tracked")
    }
    # Five samples are a batch of four and one of one; six are one of four and one of two.
    assert len(counts) >= 7
    assert set(map(tuple, counts.values())) == {(0, 1, 2)}
    assert all(tensor.isfinite().all() for tensor in of_one.parameters.values())


@pytest.mark.parametrize("name", [name for name in FOR_IMAGES if name not in ANY_SHAPE])
def test_a_model_for_images_refuses_a_table_in_one_line(name):
    with pytest.raises(ConfigurationError, match=r"needs images \[channels, height, width\]; .* is \[30\]") as refused:
        build_module(name, (30,))
    assert "\n" not in str(refused.value)


# A model of one's own


class Own(nn.Module):
    """Takes the shape and the number of classes, and returns logits only."""

    def __init__(self, num_classes, input_shape, width=5):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(math.prod(input_shape), width), nn.ReLU(), nn.Linear(width, num_classes)
        )

    def forward(self, inputs):
        return self.layers(inputs)


def created(model_name, **kwargs):
    """Stand in for a function that takes anything, and hands it on."""
    assert model_name == "own"
    num_classes = kwargs.pop("num_classes", 1000)
    return Own(num_classes, (kwargs.pop("in_chans", 3), 8, 8), **kwargs)


@pytest.fixture
def architectures_with(monkeypatch):
    """Return a function that describes the models of a configuration for data of ten classes, 8x8."""
    module = ModuleType("models_of_my_own")
    module.Net, module.created = Own, created
    monkeypatch.setitem(sys.modules, "models_of_my_own", module)
    names = tuple(map(str, range(10)))
    shared = Shared(transfer=TransferSet(torch.zeros(2, 1, 8, 8)), global_test=None, class_names=names)

    def describe_all(override):
        return make_architectures(compose([override]), shared)

    return describe_all


def test_a_class_of_ones_own_is_given_what_it_takes(architectures_with):
    own = "{name: custom, _target_: models_of_my_own.Net"
    plain, wide = architectures_with(f"model=[{own}}},{own}, width: 3}}]")
    assert (plain.embedding_size, wide.embedding_size) == (5, 3)
    assert wide.num_parameters == (64 * 3 + 3) + (3 * 10 + 10)
    assert next(iter(wide.shapes)) == "model.layers.1.weight"


def test_what_the_user_says_counts_more_than_what_is_known(architectures_with):
    own = "model=[{name: custom, _target_: models_of_my_own.Net, num_classes: "
    assert architectures_with(own + "10}]")[0].num_parameters == (64 * 5 + 5) + (5 * 10 + 10)
    with pytest.raises(ConfigurationError, match="Model 'custom' returns 7 logits; the data has 10 classes"):
        architectures_with(own + "7}]")


def test_a_function_that_takes_anything_is_given_what_the_user_says(architectures_with):
    target = "model=[{name: custom, _target_: models_of_my_own.created, model_name: own, in_chans: 1"
    (architecture,) = architectures_with(target + ", num_classes: 10}]")
    assert architecture.num_parameters == (64 * 5 + 5) + (5 * 10 + 10)
    with pytest.raises(ConfigurationError, match="Model 'custom' returns 1000 logits; the data has 10 classes"):
        architectures_with(target + "}]")


def test_a_target_that_does_not_exist_is_told(architectures_with):
    with pytest.raises(ConfigurationError, match=r"model custom \(models_of_my_own.Nett\): .* Did you mean 'Net'\?"):
        architectures_with("model=[{name: custom, _target_: models_of_my_own.Nett}]")
    with pytest.raises(ConfigurationError, match=r"model custom \(no_such_module_at_all.Net\): there is no module"):
        architectures_with("model=[{name: custom, _target_: no_such_module_at_all.Net}]")
