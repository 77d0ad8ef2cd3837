"""Models that return logits only: their features are found as what their last layer computes the logits from."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fedfuse.errors import ConfigurationError
from fedfuse.models.outputs import Outputs


class WithFeatures(nn.Module):
    """A model that returns logits, made to return its features too.

    Parameters
    ----------
    model : nn.Module
        Returns the logits, a tensor. Its parameters are called ``model.`` and what they are called there.
    head : str
        The name of the layer inside that computes the logits, see `find_head`.
    """

    def __init__(self, model: nn.Module, head: str) -> None:
        super().__init__()
        self.model = model
        self.head = head

    def forward(self, inputs: Tensor) -> Outputs:
        """Compute logits and features of a batch."""
        seen: list[Tensor] = []
        # A hook for this call alone: what it notes belongs to this call, however many there are in a step.
        hook = self.model.get_submodule(self.head).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        try:
            logits = self.model(inputs)
        finally:
            hook.remove()
        return Outputs(logits, seen[-1].flatten(1))

    def extra_repr(self) -> str:
        """Say which layer is the head, which no shape of a parameter tells."""
        return f"head={self.head!r}"


def with_features(build_module: Callable[[], nn.Module], head: str) -> WithFeatures:
    """Build a model and wrap it."""
    return WithFeatures(build_module(), head)


def find_head(module: nn.Module, sample: Tensor) -> str:
    """Find the layer whose output the logits are: the last linear layer, or the last 1x1 convolution.

    Parameters
    ----------
    module : nn.Module
        Returns the logits, a tensor.
    sample : Tensor
        ``[1, *input_shape]``.

    Returns
    -------
    str
        Its name in the module; empty if it is the module itself.

    Raises
    ------
    ConfigurationError
        If the output is not, number by number, the output of such a layer.
    """
    names = {layer: name for name, layer in module.named_modules() if _can_be_head(layer)}
    outputs: list[tuple[str, Tensor, Tensor]] = []

    def note(layer: nn.Module, _: object, output: Tensor) -> None:
        outputs.append((names[layer], output, output.clone()))

    hooks = [layer.register_forward_hook(note) for layer in names]
    try:
        with torch.no_grad():
            logits = module(sample)
    finally:
        for hook in hooks:
            hook.remove()
    for name, output, as_it_was in reversed(outputs):
        # The same memory, so that no coincidence counts; the same values, so that nothing was done to it in place.
        if output.data_ptr() == logits.data_ptr() and torch.equal(as_it_was.flatten(), logits.flatten()):
            return name
    found = f"the last of these, {outputs[-1][0]!r}, is not" if outputs else "there is none"
    raise ConfigurationError(
        f"its features cannot be found: it returns a tensor, which must come straight from an nn.Linear or a 1x1 "
        f"nn.Conv2d ({found}). Let its forward return fedfuse.models.outputs.Outputs(logits, features)."
    )


def _can_be_head(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1))
