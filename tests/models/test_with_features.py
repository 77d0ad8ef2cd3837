import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from fedfuse.errors import ConfigurationError
from fedfuse.models.architecture import describe
from fedfuse.models.outputs import Outputs
from fedfuse.models.with_features import WithFeatures, find_head, with_features

IMAGE = (1, 8, 8)


class PooledResNet(nn.Module):
    """Laid out as the models of common packages are: a pool, then a linear layer of its own."""

    def __init__(self, num_classes=10, in_chans=3, drop_rate=0.0):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(in_chans, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.global_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
        self.drop_rate = drop_rate
        self.fc = nn.Linear(6, num_classes)

    def forward(self, x):
        x = self.global_pool(functional.relu(self.bn1(self.conv1(x))))
        return self.fc(functional.dropout(x, self.drop_rate, self.training))


class WithClassifier(nn.Module):
    """Laid out as the models of other packages are: a list of layers at the end, with dropout, and a gate before."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.features = nn.Conv2d(1, 4, 3, padding=1)
        self.gate = nn.Linear(4, 4)
        self.classifier = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Dropout(0.5), nn.Linear(7, num_classes))

    def forward(self, x):
        x = self.features(x).mean((2, 3))
        return self.classifier(torch.sigmoid(self.gate(x)) * x)


class WithConvolutionalHead(nn.Module):
    """A 1x1 convolution on the pooled map computes the logits."""

    def __init__(self):
        super().__init__()
        self.body, self.pool, self.head = nn.Conv2d(1, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(5, 3, 1)

    def forward(self, x):
        return torch.flatten(self.head(self.pool(self.body(x))), 1)


class Ending(nn.Module):
    """A linear layer, and something after it."""

    def __init__(self, end):
        super().__init__()
        self.fc, self.end = nn.Linear(64, 10), end

    def forward(self, x):
        return self.end(self.fc(x.flatten(1)))


@pytest.mark.parametrize(
    ("build", "head", "width"),
    [
        (partial(PooledResNet, in_chans=1), "fc", 6),
        (WithClassifier, "classifier.3", 7),
        (WithConvolutionalHead, "head", 5),
        (partial(nn.Sequential, nn.Flatten(), nn.Linear(64, 2)), "1", 64),
    ],
)
def test_the_head_is_the_layer_that_computes_the_logits(build, head, width):
    module = build().eval()
    assert find_head(module, torch.zeros(1, *IMAGE)) == head
    wrapped = WithFeatures(module, head)
    images = torch.randn(4, *IMAGE)
    outputs = wrapped(images)
    assert isinstance(outputs, Outputs)
    assert outputs.features.shape == (4, width)
    assert torch.equal(outputs.logits, module(images))
    layer = module.get_submodule(head)
    applied = functional.linear(outputs.features, layer.weight.flatten(1), layer.bias)
    torch.testing.assert_close(applied, outputs.logits)


def test_looking_for_the_head_leaves_no_hook_behind():
    module = PooledResNet(in_chans=1).eval()
    find_head(module, torch.zeros(1, *IMAGE))
    WithFeatures(module, "fc")(torch.zeros(1, *IMAGE))
    with pytest.raises(RuntimeError):
        WithFeatures(module, "fc")(torch.zeros(1, 5))
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())


@pytest.mark.parametrize("end", [nn.LogSoftmax(1), nn.ReLU(inplace=True), nn.Softmax(1)])
def test_what_is_done_to_the_logits_afterwards_is_refused(end):
    with pytest.raises(ConfigurationError) as refused:
        find_head(Ending(end).eval(), torch.zeros(1, *IMAGE))
    assert str(refused.value) == (
        "its features cannot be found: it returns a tensor, which must come straight from an nn.Linear or a 1x1 "
        "nn.Conv2d (the last of these, 'fc', is not). Let its forward return "
        "fedfuse.models.outputs.Outputs(logits, features)."
    )


def test_that_nothing_changes_by_chance_does_not_make_a_head():
    module = Ending(nn.ReLU()).eval()
    nn.init.zeros_(module.fc.weight)
    nn.init.zeros_(module.fc.bias)
    with pytest.raises(ConfigurationError, match="the last of these, 'fc', is not"):
        find_head(module, torch.zeros(1, *IMAGE))


def test_a_model_without_such_a_layer_is_refused():
    with pytest.raises(ConfigurationError, match=r"or a 1x1 nn.Conv2d \(there is none\). Let its forward return"):
        find_head(nn.Sequential(nn.Conv2d(1, 2, 8), nn.Flatten()), torch.zeros(1, *IMAGE))


def test_each_call_in_a_step_has_its_own_features_and_gradients():
    wrapped = WithFeatures(WithClassifier(), "classifier.3").eval()
    first, second = torch.randn(2, *IMAGE), torch.randn(3, *IMAGE)
    one, two, again = wrapped(first), wrapped(second), wrapped(first)
    assert (one.features.shape, two.features.shape) == ((2, 7), (3, 7))
    assert torch.equal(one.features, again.features)
    torch.autograd.backward(one.features.sum() + two.features.sum())
    assert wrapped.model.features.weight.grad.abs().sum() > 0
    assert wrapped.model.classifier[3].weight.grad is None


def test_it_runs_with_the_parameters_of_others_one_by_one_and_at_once():
    wrapped = WithFeatures(WithConvolutionalHead(), "head")
    others = [WithConvolutionalHead() for _ in range(3)]
    images = torch.randn(3, 2, *IMAGE)
    parameters = [{f"model.{name}": tensor for name, tensor in other.state_dict().items()} for other in others]
    expected = [
        functional_call(wrapped, own, (own_images,)) for own, own_images in zip(parameters, images, strict=True)
    ]
    for other, own_images, outputs in zip(others, images, expected, strict=True):
        assert torch.equal(outputs.logits, other(own_images))
    stacked = {name: torch.stack([own[name] for own in parameters]) for name in parameters[0]}
    logits, features = torch.vmap(lambda own, own_images: functional_call(wrapped, own, (own_images,))[:2])(
        stacked, images
    )
    torch.testing.assert_close(logits, torch.stack([own.logits for own in expected]))
    torch.testing.assert_close(features, torch.stack([own.features for own in expected]))


def test_names_are_those_of_the_model_behind_one_prefix():
    module = PooledResNet()
    wrapped = with_features(lambda: module, "fc")
    assert list(wrapped.state_dict()) == [f"model.{name}" for name in module.state_dict()]


def test_it_can_be_copied_and_sent_to_another_process():
    wrapped = WithFeatures(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), "1")
    images = torch.randn(2, *IMAGE)
    for other in (copy.deepcopy(wrapped), pickle.loads(pickle.dumps(wrapped))):
        assert torch.equal(other(images).features, images.flatten(1))


def test_the_head_is_part_of_the_signature():
    build = partial(PooledResNet, 6, 1)
    found = describe("found", build, IMAGE)
    assert found.embedding_size == 6
    other = describe("other", partial(with_features, build, "global_pool"), IMAGE)
    assert other.shapes == found.shapes
    assert other.signature != found.signature
