"""The architecture of a model: how to build it, and what can be known of it without training it."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedfuse.errors import ConfigurationError
from fedfuse.models.outputs import Outputs


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
    embedding_size : int
        The width of the features.
    layer_types : frozenset[str]
        The class names of the modules that have no modules inside.
    ties_parameters : bool
        Whether one tensor stands under two names.
    """

    name: str
    build_module: Callable[[], nn.Module]
    signature: str
    shapes: Mapping[str, torch.Size]
    num_parameters: int
    embedding_size: int
    layer_types: frozenset[str]
    ties_parameters: bool = False

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


def describe(name: str, build_module: Callable[[], nn.Module], input_shape: Sequence[int]) -> Architecture:
    """Build a model once and look at it; torch's global generator is left as it was.

    Parameters
    ----------
    name : str
        What the user calls it.
    build_module : Callable[[], nn.Module]
        Makes a new module.
    input_shape : Sequence[int]
        The shape of one sample.

    Returns
    -------
    Architecture
        What there is to know.

    Raises
    ------
    ConfigurationError
        If the model cannot take such a sample, or does not return `Outputs` of the right dimensions.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        module = build_module()
        try:
            outputs = module.eval()(torch.zeros(1, *input_shape))
        except RuntimeError as error:
            raise ConfigurationError(
                f"Model {name!r} cannot take a sample of shape {list(input_shape)}: {str(error).splitlines()[0]}"
            ) from error
    if not isinstance(outputs, Outputs):
        raise ConfigurationError(
            f"Model {name!r} returns {type(outputs).__name__}; its forward must return "
            f"fedfuse.models.outputs.Outputs(logits, features)."
        )
    if outputs.logits.ndim != 2 or outputs.features.ndim != 2:
        raise ConfigurationError(
            f"Model {name!r} returns logits {list(outputs.logits.shape)} and features "
            f"{list(outputs.features.shape)} for one sample; "
            f"they must be [batch, classes] and [batch, embedding_size]."
        )
    return Architecture(
        name=name,
        build_module=build_module,
        signature=_signature(module),
        shapes={key: tensor.shape for key, tensor in module.state_dict().items()},
        num_parameters=sum(parameter.numel() for parameter in module.parameters()),
        embedding_size=outputs.features.shape[1],
        layer_types=frozenset(
            type(part).__name__ for part in module.modules() if not any(True for _ in part.children())
        ),
        ties_parameters=len(list(module.parameters())) < len(list(module.named_parameters(remove_duplicate=False))),
    )


def _signature(module: nn.Module) -> str:
    """Hash what makes two modules interchangeable: their class, their layers, their tensors' shapes."""
    lines = [f"{type(module).__module__}.{type(module).__qualname__}"]
    lines += [f"{name} {type(part).__qualname__}" for name, part in module.named_modules()]
    lines += [f"{name} {list(tensor.shape)}" for name, tensor in module.state_dict().items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
