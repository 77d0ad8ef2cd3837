import pytest
import torch
from torch import nn
from torch.func import functional_call

from fedfuse.models.architecture import describe
from fedfuse.models.logistic_regression import LogisticRegression
from fedfuse.models.mlp import MLP
from fedfuse.models.outputs import Outputs
from fedfuse.models.perceptron import Passes, Perceptron, StackedPerceptron

SHAPE = (1, 4, 4)


class Changed(nn.Module):
    """A perceptron of two layers, of which one thing differs."""

    def __init__(self, change=""):
        super().__init__()
        self.change = change
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU())
        self.head = nn.Linear(5, 3, bias=change != "no bias")
        if change == "frozen":
            self.body[1].requires_grad_(False)
        if change == "buffer":
            self.register_buffer("shift", torch.zeros(5))
        if change == "unused":
            self.unused = nn.Linear(2, 2)
        if change == "other layer":
            self.body[2] = nn.Tanh()

    def forward(self, inputs):
        match self.change:
            case "transposed":
                inputs = inputs.transpose(2, 3)
            case "scaled":
                inputs = inputs / inputs.norm().clamp_min(1)
        features = self.body(inputs)
        match self.change:
            case "clamped":
                features = features.clamp_max(50)
            case "detached":
                return Outputs(self.head(features.detach()), features)
            case "twice":
                return Outputs(self.head(features) + self.head(features), features)
            case "other features":
                return Outputs(self.head(features), 2 * features)
        return Outputs(self.head(features), features)


class OneActivation(nn.Module):
    """A perceptron that uses one ReLU twice, and defines its layers in another order than it calls them."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.relu = nn.ReLU()
        self.second, self.first = nn.Linear(5, 4), nn.Linear(16, 5)

    def forward(self, inputs):
        features = self.relu(self.second(self.relu(self.first(inputs.flatten(1)))))
        return Outputs(self.head(features), features)


def found_in(build, **others):
    return describe("model", build, SHAPE, **others).perceptron


def test_stacks_of_linear_layers_are_recognised():
    two = (("body.1", True), ("body.3", True))
    assert found_in(lambda: MLP(SHAPE, 3, (6,), 5)) == Perceptron(two, ("head",))
    assert found_in(lambda: MLP(SHAPE, 3, (6,), 5), fused_head=True) == Perceptron(two, ("head", "fused_head"))
    assert found_in(lambda: LogisticRegression(SHAPE, 3)) == Perceptron((), ("head",))
    assert found_in(lambda: LogisticRegression(SHAPE, 3), fused_head=True) == Perceptron((), ("head", "fused_head"))
    assert found_in(Changed) == Perceptron((("body.1", True),), ("head",))


def test_layers_count_in_the_order_in_which_they_are_called():
    assert found_in(OneActivation) == Perceptron((("first", True), ("second", True)), ("head",))


def test_a_model_that_returns_logits_only_is_recognised_too():
    def build():
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))

    assert found_in(build) == Perceptron((("model.1", False), ("model.2", True)), ("model.4",))


@pytest.mark.parametrize(
    "change",
    [
        "no bias",
        "frozen",
        "buffer",
        "unused",
        "other layer",
        "transposed",
        "scaled",
        "clamped",
        "detached",
        "twice",
        "other features",
    ],
)
def test_what_differs_in_anything_is_not_a_perceptron(change):
    assert found_in(lambda: Changed(change)) is None


def test_looking_at_a_model_draws_no_numbers():
    before = torch.get_rng_state()
    found_in(Changed)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def two_clients():
    """Return a model with a fused head, the stacked parameters of two clients, and their batches of four."""
    architecture = describe("model", lambda: MLP(SHAPE, 3, (6,), 5), SHAPE, fused_head=True)
    own = [architecture.initial_parameters(seed, torch.float64) for seed in (1, 2)]
    parameters = {name: torch.stack([one[name] for one in own]) for name in own[0]}
    inputs = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return architecture, parameters, inputs


def expected_gradients(architecture, parameters, inputs, loss):
    """Let autograd find the gradients of the sum of all clients' losses."""
    module, gradients = architecture.module().double(), []
    for client in range(2):
        own = {name: tensor[client].clone().requires_grad_() for name, tensor in parameters.items()}
        loss(functional_call(module, own, (inputs[client],))).backward()
        gradients.append({name: tensor.grad for name, tensor in own.items()})
    return gradients


@pytest.mark.parametrize("used", ["logits", "features", "fused_logits", "logits features", "features fused_logits"])
def test_gradients_are_those_of_autograd_and_what_does_not_matter_has_none(two_clients, used):
    architecture, parameters, inputs = two_clients
    passes = Passes(StackedPerceptron(architecture.perceptron, parameters), 4)
    outputs = passes.forward(inputs)
    passes.backward(**{f"by_{name}": 2 * getattr(outputs, name).clone() for name in used.split()})
    expected = expected_gradients(
        architecture, parameters, inputs, lambda own: sum(getattr(own, name).square().sum() for name in used.split())
    )
    for name, tensor in parameters.items():
        for client in range(2):
            if expected[client][name] is None:
                assert tensor.grad is None
            else:
                torch.testing.assert_close(tensor.grad[client], expected[client][name], rtol=0, atol=1e-12)


def test_gradients_of_two_batches_add_up_within_a_step_and_fade_between_steps(two_clients):
    architecture, parameters, inputs = two_clients
    stacked = StackedPerceptron(architecture.perceptron, parameters, fading=0.5)
    first, second = Passes(stacked, 4), Passes(stacked, 3)
    alone = []
    for own in (inputs, inputs[:, :3] + 1):
        once = Passes(StackedPerceptron(architecture.perceptron, parameters), own.shape[1])
        for tensor in parameters.values():
            tensor.grad = None
        once.backward(once.forward(own).logits.clone())
        alone.append({name: tensor.grad for name, tensor in parameters.items() if tensor.grad is not None})
    for number in (1.0, 1.5, 1.75):
        stacked.forget_gradients()
        assert all(tensor.grad is None for tensor in parameters.values())
        for passes, own in ((first, inputs), (second, inputs[:, :3] + 1)):
            passes.backward(passes.forward(own).logits.clone())
        for name in alone[0]:
            expected = number * (alone[0][name] + alone[1][name])
            torch.testing.assert_close(parameters[name].grad, expected, rtol=0, atol=1e-12)


def test_features_that_enter_at_the_head_teach_it_alone(two_clients):
    architecture, parameters, _ = two_clients
    features = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    passes = Passes(StackedPerceptron(architecture.perceptron, parameters), 4)
    outputs = passes.at_head(features)
    assert outputs.fused_logits is None
    for client in range(2):
        expected = features[client] @ parameters["head.weight"][client].T + parameters["head.bias"][client]
        torch.testing.assert_close(outputs.logits[client], expected, rtol=0, atol=1e-12)
    passes.backward(outputs.logits.clone(), torch.ones_like(features))
    assert {name for name, tensor in parameters.items() if tensor.grad is not None} == {"head.weight", "head.bias"}
