"""The architecture of a model: how to build it, and what can be known of it without training it."""

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fedfuse.errors import ConfigurationError
from fedfuse.models.fused_head import with_fused_head
from fedfuse.models.outputs import Outputs
from fedfuse.models.perceptron import Perceptron, find_perceptron
from fedfuse.models.with_features import find_head, with_features


@dataclass(frozen=True)
class Architecture:
    """One model of the run, made by `describe`.

    Attributes
    ----------
    name : str
        What the user calls it.
    build_module : Callable[[], nn.Module]
        Makes a new module, with initial parameters from torch's global generator.
    signature : str
        16 hexadecimal digits of the layout. Clients whose signatures agree can exchange weights and be
        stacked, whatever their models are called.
    shapes : Mapping[str, torch.Size]
        The shape of every parameter and buffer, in the order of the module's ``state_dict``.
    num_parameters : int
        How many numbers are trained; buffers do not count.
    flops : int
        Floating point operations of the forward pass of one sample: two for each multiplication with addition in
        convolutions, linear layers and matrix products; nothing else counts.
    embedding_size : int
        The width of the features.
    has_head : bool
        Whether the logits are what a linear layer with a bias, named ``head``, makes of the features; there, features
        can enter the model.
    layer_types : frozenset[str]
        The class names of the modules that have no modules inside.
    ties_parameters : bool
        Whether one tensor stands under two names.
    can_be_stacked : bool
        Whether torch can run the model with the parameters of many clients at once.
    perceptron : Perceptron or None
        What it consists of, if it is nothing but linear layers with ReLU, all of them trained.
    takes_channels_last : bool
        Whether it has convolutions of images, and works on images whose channels are last in memory.
    """

    name: str
    build_module: Callable[[], nn.Module]
    signature: str
    shapes: Mapping[str, torch.Size]
    num_parameters: int
    flops: int
    embedding_size: int
    has_head: bool
    layer_types: frozenset[str]
    ties_parameters: bool
    can_be_stacked: bool
    perceptron: Perceptron | None
    takes_channels_last: bool

    def module(self) -> nn.Module:
        """Build a module to load parameters into; torch's global generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            return self.build_module()

    def initial_parameters(self, generator_seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """Draw the parameters and buffers that a model starts with.

        Parameters
        ----------
        generator_seed : int
            The same seed gives the same numbers; torch's global generator is left as it was.
        dtype : torch.dtype
            What floating-point tensors are cast to, after drawing: all dtypes start from the same numbers.

        Returns
        -------
        dict[str, Tensor]
            By name, detached, owned by the caller.
        """
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: it seeds accelerators too, and here only the CPU's generator is put back.
            torch.default_generator.manual_seed(generator_seed)
            module = self.build_module()
        return {
            name: tensor.detach().to(dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
            for name, tensor in module.state_dict().items()
        }


def describe(
    name: str,
    build_module: Callable[[], nn.Module],
    input_shape: Sequence[int],
    num_classes: int | None = None,
    fused_head: bool = False,
) -> Architecture:
    """Build a model once and look at it; torch's global generator is left as it was.

    Parameters
    ----------
    name : str
        What the user calls it.
    build_module : Callable[[], nn.Module]
        Makes a new module. If it returns logits only, the architecture's modules return features too, see
        `fedfuse.models.with_features`.
    input_shape : Sequence[int]
        The shape of one sample.
    num_classes : int or None
        How many logits there must be; None takes any number.
    fused_head : bool
        Whether to give the model a second head, see `fedfuse.models.fused_head`.

    Returns
    -------
    Architecture
        What there is to know.

    Raises
    ------
    ConfigurationError
        If the model cannot take such a sample, or does not return `Outputs` of the right dimensions.
    """
    with torch.random.fork_rng(devices=[]):
        sample = torch.zeros(1, *input_shape)
        module = build_module()
        if not isinstance(module, nn.Module):
            raise ConfigurationError(f"Model {name!r} is {type(module).__name__}; it must be a torch.nn.Module.")
        if any(map(nn.parameter.is_lazy, module.parameters())):
            raise ConfigurationError(f"Model {name!r} has lazy layers; give every layer its sizes.")
        try:
            outputs, flops = _outputs_and_flops(module, sample)
            if isinstance(outputs, Tensor):
                build_module = partial(with_features, build_module, find_head(module.eval(), sample))
                module = build_module()
                outputs, flops = _outputs_and_flops(module, sample)
        except ConfigurationError as error:
            raise ConfigurationError(f"Model {name!r}: {error}") from error
        except Exception as error:  # the user's own model can raise anything
            first_line, *_ = [*str(error).splitlines(), type(error).__name__]
            raise ConfigurationError(
                f"Model {name!r} cannot take a sample of shape {list(input_shape)}: {first_line}"
            ) from error
        _check_outputs(name, outputs, num_classes)
        if fused_head:
            width, logits = outputs.features.shape[1], outputs.logits.shape[1]
            build_module = partial(with_fused_head, build_module, width, logits)
            module = build_module()
            outputs, flops = _outputs_and_flops(module, sample)
        return Architecture(
            name=name,
            build_module=build_module,
            signature=_signature(module),
            shapes={key: tensor.shape for key, tensor in module.state_dict().items()},
            num_parameters=sum(parameter.numel() for parameter in module.parameters()),
            flops=flops,
            embedding_size=outputs.features.shape[1],
            has_head=_has_head(module, outputs),
            layer_types=frozenset(
                type(part).__name__ for part in module.modules() if not any(True for _ in part.children())
            ),
            ties_parameters=len(list(module.parameters())) < len(list(module.named_parameters(remove_duplicate=False))),
            can_be_stacked=_can_be_stacked(module, sample),
            perceptron=find_perceptron(module, sample),
            takes_channels_last=_takes_channels_last(module, sample),
        )


def size_in_words(architecture: Architecture) -> str:
    """Say how large a model is: ``lenet (61,706 parameters, 0.85 MFLOPs a sample)``."""
    millions = architecture.flops / 1e6
    shown = f"{millions:,.2f}" if millions >= 0.01 else f"{millions:.1g}"
    return f"{architecture.name} ({architecture.num_parameters:,} parameters, {shown} MFLOPs a sample)"


def _outputs_and_flops(module: nn.Module, sample: Tensor) -> tuple[Outputs, int]:
    # Torch computes attention in one piece where it can (never with gradients, or with this kernel), and does not count
    # what is inside.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        outputs: Outputs = module.eval()(sample)
    return outputs, counter.get_total_flops()


def _check_outputs(name: str, outputs: object, num_classes: int | None) -> None:
    if not isinstance(outputs, Outputs):
        raise ConfigurationError(
            f"Model {name!r} returns {type(outputs).__name__}; its forward must return "
            f"fedfuse.models.outputs.Outputs(logits, features), or the logits alone."
        )
    if outputs.logits.ndim != 2 or outputs.features.ndim != 2:
        raise ConfigurationError(
            f"Model {name!r} returns logits {list(outputs.logits.shape)} and features "
            f"{list(outputs.features.shape)} for one sample; "
            f"they must be [batch, classes] and [batch, embedding_size]."
        )
    if num_classes not in (None, outputs.logits.shape[1]):
        raise ConfigurationError(
            f"Model {name!r} returns {outputs.logits.shape[1]} logits; the data has {num_classes} classes."
        )


def _has_head(module: nn.Module, outputs: Outputs) -> bool:
    head = getattr(module, "head", None)
    if not isinstance(head, nn.Linear) or head.bias is None or head.in_features != outputs.features.shape[1]:
        return False
    return torch.equal(head(outputs.features), outputs.logits)


def _can_be_stacked(module: nn.Module, sample: Tensor) -> bool:
    """Run two models at once, as in training: what draws, or looks at values to decide, cannot be."""
    tensors = {name: torch.stack([tensor.detach()] * 2) for name, tensor in module.state_dict().items()}

    def forward(own: dict[str, Tensor], inputs: Tensor) -> Tensor:
        outputs: Outputs = functional_call(module, own, (inputs,))
        return outputs.logits

    module.train()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that something is slow at once is no reason not to do it
            torch.vmap(forward)(tensors, torch.stack([torch.cat([sample] * 2)] * 2))
    except Exception:  # the user's own model can raise anything
        return False
    return True


def _takes_channels_last(module: nn.Module, sample: Tensor) -> bool:
    """Change the module's format and run it; a model may rely on the usual one, for example with ``view``."""
    if not any(isinstance(layer, nn.Conv2d) for layer in module.modules()):
        return False
    module.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        with torch.no_grad():
            module(torch.cat([sample] * 2))
    except RuntimeError:
        return False
    return True


def _signature(module: nn.Module) -> str:
    """Hash what makes two modules interchangeable: their class, their layers, their tensors' shapes."""
    lines = [f"{type(module).__module__}.{type(module).__qualname__}"]
    # How a layer describes itself tells what no shape does: strides, groups, heads.
    lines += [f"{name} {type(part).__qualname__}({part.extra_repr()})" for name, part in module.named_modules()]
    lines += [f"{name} {list(tensor.shape)}" for name, tensor in module.state_dict().items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
