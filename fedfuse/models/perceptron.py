"""Stacks of linear layers with ReLU: how they are recognised, and the passes of many clients' ones, written by hand.

A pass is one batched matrix product for each layer, into memory that is used again at every step.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedfuse.models.fused_head import FUSED_HEAD
from fedfuse.models.outputs import Outputs

PLAIN_LAYERS = (nn.Flatten, nn.Linear, nn.ReLU)
# Inputs of very different sizes: a model that cuts off or divides by what is large or small shows itself.
PROBED_SIZES = (0.01, 1.0, 100.0)


@dataclass(frozen=True)
class Perceptron:
    """What such a stack consists of.

    Attributes
    ----------
    body : tuple[tuple[str, bool], ...]
        For each linear layer on the way to the features: its name, and whether ReLU follows.
    heads : tuple[str, ...]
        The name of the linear layer that makes the logits of the features; and of the fused head, if there is one.
    """

    body: tuple[tuple[str, bool], ...]
    heads: tuple[str, ...]

    @property
    def tensors(self) -> set[str]:
        """The names of all parameters."""
        names = [*(name for name, _ in self.body), *self.heads]
        return {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}


@dataclass(frozen=True, eq=False)
class _Layer:
    """A linear layer of all clients: ``weight`` is ``[K, out, in]``, and the memory of its gradients lies beside it."""

    weight: Tensor
    bias: Tensor
    by_weight: Tensor
    by_bias: Tensor
    fading: float
    relu: bool

    @classmethod
    def of(cls, parameters: Mapping[str, Tensor], fading: float, name: str, relu: bool = False) -> Self:
        weight, bias = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
        return cls(weight, bias, torch.zeros_like(weight), torch.zeros_like(bias), fading, relu)

    def learn(self, slope: Tensor, entering: Tensor) -> None:
        """Add to the gradients what follows from ``slope`` ``[K, out, B]`` and what entered, ``[K, B, in]``."""
        kept = self.fading if self.weight.grad is None else 1.0
        self.weight.grad = self.by_weight.baddbmm_(slope, entering, beta=kept)
        self.bias.grad = self.by_bias.mul_(kept).add_(slope.sum(2))


class StackedPerceptron:
    """The perceptrons of K clients.

    Parameters
    ----------
    perceptron : Perceptron
        What they consist of.
    parameters : Mapping[str, Tensor]
        ``[K, ...]`` by name, contiguous. Their gradients appear in ``grad``: nothing where nothing was learnt.
    fading : float
        How much of a step's gradients remains in those of the next: the momentum, which costs nothing this way.
    """

    def __init__(self, perceptron: Perceptron, parameters: Mapping[str, Tensor], fading: float = 0.0) -> None:
        self._parameters = list(parameters.values())
        self.body = [_Layer.of(parameters, fading, name, relu) for name, relu in perceptron.body]
        self.heads = [_Layer.of(parameters, fading, name) for name in perceptron.heads]

    def forget_gradients(self) -> None:
        """Begin a new step."""
        for parameter in self._parameters:
            parameter.grad = None


class Passes:
    """The way forward and back of a batch of all clients together.

    What it returns lies in its own memory, and is overwritten when it is called again.

    Parameters
    ----------
    stacked : StackedPerceptron
        The clients' models.
    most_samples : int
        How many samples every client's batch has at most.
    """

    def __init__(self, stacked: StackedPerceptron, most_samples: int) -> None:
        self._body, self._heads = stacked.body, stacked.heads
        make = stacked.heads[0].weight.new_empty
        of_body, of_heads = (
            [most_samples * own.bias.numel() for own in layers] for layers in (self._body, self._heads)
        )
        # Batches of all sizes share it: what the step before has left in the cache is the quickest to overwrite.
        self._memory = [[make(number) for number in numbers] for numbers in (of_body, of_body, of_heads)]
        self._outputs: list[Tensor] = []
        self._slopes: list[Tensor] = []
        self._logits: list[Tensor] = []
        self._entering: list[Tensor] = []
        self._features = torch.empty(0)
        self._by_layer: list[tuple[_Layer, Tensor, Tensor]] = []

    def _make_room(self, samples: int) -> None:
        """Lay out the memory for batches of this size."""
        widths = [(len(layer.bias), samples, layer.bias.shape[1]) for layer in self._body]
        classes = [(*head.bias.shape, samples) for head in self._heads]
        self._outputs, self._slopes, self._logits = (
            [memory[: math.prod(shape)].view(shape) for memory, shape in zip(own, shapes, strict=True)]
            for own, shapes in zip(self._memory, (widths, widths, classes), strict=True)
        )

    def forward(self, inputs: Tensor) -> Outputs:
        """Compute logits and features of inputs ``[K, B, width]``."""
        self._make_room(inputs.shape[1])
        self._entering = []
        for layer, output in zip(self._body, self._outputs, strict=True):
            self._entering.append(inputs)
            inputs = torch.baddbmm(layer.bias.unsqueeze(1), inputs, layer.weight.transpose(1, 2), out=output)
            if layer.relu:
                inputs.relu_()
        return self._answer(inputs, self._heads)

    def at_head(self, features: Tensor) -> Outputs:
        """Compute the logits of features ``[K, B, embedding_size]`` that enter the models at their head."""
        self._make_room(features.shape[1])
        self._entering = []
        return self._answer(features, self._heads[:1])

    def _answer(self, features: Tensor, heads: list[_Layer]) -> Outputs:
        self._features = features
        answers = []
        for head, memory in zip(heads, self._logits, strict=False):
            # Classes before samples in memory: a softmax over a few neighbouring numbers takes 20 times as long.
            torch.baddbmm(head.bias.unsqueeze(2), head.weight, features.transpose(1, 2), out=memory)
            answers.append(memory.transpose(1, 2))
        return Outputs(answers[0], features, *answers[1:])

    def backward(
        self, by_logits: Tensor | None = None, by_features: Tensor | None = None, by_fused_logits: Tensor | None = None
    ) -> None:
        """Add to the parameters' gradients.

        Parameters
        ----------
        by_logits, by_features, by_fused_logits : Tensor or None
            The gradients of the loss by what the last pass forward returned; None where it does not depend on it.
        """
        slope = by_features
        for head, by_answer in zip(self._heads, (by_logits, by_fused_logits), strict=False):
            if by_answer is None:
                continue
            head.learn(by_answer.transpose(1, 2), self._features)
            if self._entering:
                memory = self._slopes[-1]
                if slope is None:
                    slope = torch.bmm(by_answer, head.weight, out=memory)
                else:
                    slope = torch.baddbmm(slope, by_answer, head.weight, out=memory)
        if slope is None:
            return
        for number in reversed(range(len(self._entering))):
            layer, memory = self._body[number], self._slopes[number]
            if layer.relu:
                backward = torch.ops.aten.threshold_backward.grad_input
                slope = backward(slope, self._outputs[number], 0, grad_input=memory)
            layer.learn(slope.transpose(1, 2), self._entering[number])
            if number > 0:
                slope = torch.bmm(slope, layer.weight, out=self._slopes[number - 1])

    def backward_of_samples(self, by_logits: Tensor) -> Tensor:
        """Find how large every sample's own gradient is, by all parameters on the way to the logits together.

        None of these gradients is formed: that of a linear layer is the product of what entered it and of the gradient
        by what left it, and so is its norm.

        Parameters
        ----------
        by_logits : Tensor
            The gradients of the samples' losses by the logits that the last pass forward returned, ``[K, B, C]``.

        Returns
        -------
        Tensor
            The squared norms ``[K, B]``; `learn_scaled` goes on from here.
        """
        slope, above = by_logits, self._heads[0]
        self._by_layer = [(above, slope, self._features)]
        for number in reversed(range(len(self._entering))):
            layer, memory = self._body[number], self._slopes[number]
            slope = torch.bmm(slope, above.weight, out=memory)
            if layer.relu:
                slope = torch.ops.aten.threshold_backward.grad_input(slope, self._outputs[number], 0, grad_input=memory)
            self._by_layer.append((layer, slope, self._entering[number]))
            above = layer
        # The one is for the bias.
        squares = [_squared_norms(slope) * _squared_norms(entered).add_(1) for _, slope, entered in self._by_layer]
        return torch.stack(squares).sum(0)

    def learn_scaled(self, factors: Tensor) -> None:
        """Add the samples' gradients to those of the parameters, each times its factor ``[K, B]``.

        What has the factor 0 is left out, even if it is not finite.
        """
        left_out = (factors == 0).unsqueeze(2)
        any_is = bool(left_out.any())
        for layer, slope, entered in self._by_layer:
            slope.mul_(factors.unsqueeze(2))
            if any_is:
                slope.masked_fill_(left_out, 0)
                entered = entered.masked_fill(left_out, 0)
            layer.learn(slope.transpose(1, 2), entered)


def _squared_norms(rows: Tensor) -> Tensor:
    """Return those of the rows of ``[K, B, width]``."""
    # It needs no memory for the squares, but is slow where the numbers of a row do not lie side by side.
    return torch.linalg.vector_norm(rows, dim=2).square_() if rows.stride(2) == 1 else rows.square().sum(2)


def find_perceptron(module: nn.Module, sample: Tensor) -> Perceptron | None:
    """Recognise a stack of linear layers with ReLU.

    Its layers are those that are called, in their order; and the passes of two clients with other parameters must give
    the outputs and gradients of the module itself, which its ``forward`` alone knows.

    Parameters
    ----------
    module : nn.Module
        Returns `Outputs`.
    sample : Tensor
        ``[1, *input_shape]``.

    Returns
    -------
    Perceptron or None
        None if it is anything else, or has layers that are not trained.
    """
    try:
        perceptron = _parse(module, sample)
        return perceptron if perceptron is not None and _computes(perceptron, module, sample) else None
    except Exception:  # the user's own model can raise anything
        return None


def _parse(module: nn.Module, sample: Tensor) -> Perceptron | None:
    called: list[nn.Module] = []
    leaves = {part: name for name, part in module.named_modules() if not any(True for _ in part.children())}
    hooks = [leaf.register_forward_pre_hook(lambda own, _: called.append(own)) for leaf in leaves]
    try:
        with torch.no_grad():
            module(sample)
    finally:
        for hook in hooks:
            hook.remove()
    if any(type(layer) not in PLAIN_LAYERS for layer in called):
        return None
    layers: list[tuple[str, bool]] = []
    for layer in called:
        if isinstance(layer, nn.Linear):
            layers.append((leaves[layer], False))
        elif isinstance(layer, nn.ReLU) and layers:
            layers[-1] = (layers[-1][0], True)
    num_heads = 1 + hasattr(module, FUSED_HEAD)
    perceptron = Perceptron(tuple(layers[:-num_heads]), tuple(name for name, _ in layers[-num_heads:]))
    all_trained = all(parameter.requires_grad for parameter in module.parameters())
    return perceptron if all_trained and perceptron.tensors == set(module.state_dict()) else None


def _computes(perceptron: Perceptron, module: nn.Module, sample: Tensor) -> bool:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    sizes = torch.tensor(PROBED_SIZES, dtype=torch.float64).reshape(1, -1, *[1] * (sample.ndim - 1))
    inputs = sizes * draw(2, len(PROBED_SIZES), *sample.shape[1:])
    parameters = {name: draw(2, *tensor.shape) for name, tensor in module.state_dict().items()}
    passes = Passes(StackedPerceptron(perceptron, parameters), len(PROBED_SIZES))
    outputs = passes.forward(inputs.flatten(2))
    slopes = [draw(*output.shape) for output in outputs if output is not None]
    passes.backward(*slopes)
    module.train()
    for client in range(2):
        own = {name: tensor[client].clone().requires_grad_() for name, tensor in parameters.items()}
        with torch.enable_grad():
            expected: Outputs = functional_call(module, own, (inputs[client],))
            answers = [answer for answer in expected if answer is not None]
            loss = torch.stack([(answer * slope[client]).sum() for answer, slope in zip(answers, slopes, strict=True)])
            torch.autograd.backward(loss.sum())
        found = [output[client] for output in outputs if output is not None]
        found += [tensor.grad[client] for tensor in parameters.values() if tensor.grad is not None]
        answers += [tensor.grad for tensor in own.values() if tensor.grad is not None]
        if len(found) != len(answers) or not all(map(torch.allclose, found, answers)):
            return False
    return True
