"""A model's outputs on a set of inputs, without gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedfuse.data.samples import as_numbers
from fedfuse.device import Device, current_device
from fedfuse.knowledge import Tensors
from fedfuse.models.architecture import Architecture
from fedfuse.models.outputs import Outputs
from fedfuse.models.unfolded import unfold_convolutions

# A layer of 16 channels on 512 images of 32x32 is 34 MB; larger batches are no quicker.
ROWS_AT_ONCE = 512
# Of all clients together, on a CUDA device: enough to fill it; the columns of a convolution of 16 channels are 10 GB.
SAMPLES_AT_ONCE = 16_384


def predict(architecture: Architecture, parameters: Sequence[Tensors], inputs: Sequence[Tensor]) -> list[Outputs]:
    """Run the models of one cohort, each on its own inputs.

    On the processor every client is computed by itself, whatever the runner: a prediction is so quick that stacking
    gains little, and equal parameters give equal bits. On a CUDA device all are computed together where they can be.

    Parameters
    ----------
    architecture : Architecture
        The cohort's architecture.
    parameters : Sequence[Tensors]
        One set for each client.
    inputs : Sequence[Tensor]
        ``[n, *shape]`` for each client.

    Returns
    -------
    list[Outputs]
        Logits ``[n, C]`` and features ``[n, D]`` for each client.
    """
    device = current_device()
    module = architecture.module().eval().to(device.torch_device)
    with torch.no_grad():
        if device.is_cuda and parameters and architecture.can_be_stacked and not architecture.ties_parameters:
            return _predict_together(unfold_convolutions(module), parameters, inputs, device)
        return [_predict_one(module, own, x, device) for own, x in zip(parameters, inputs, strict=True)]


def _predict_one(module: nn.Module, parameters: Tensors, inputs: Tensor, device: Device) -> Outputs:
    dtype = next(tensor.dtype for tensor in parameters.values() if tensor.is_floating_point())
    own = {name: device.hold(tensor) for name, tensor in parameters.items()}
    parts = torch.split(device.hold(inputs), ROWS_AT_ONCE)
    outputs = _concatenate([functional_call(module, own, (as_numbers(part, dtype),)) for part in parts])
    return _fetch(outputs, device)


def _predict_together(
    module: nn.Module, parameters: Sequence[Tensors], inputs: Sequence[Tensor], device: Device
) -> list[Outputs]:
    first = parameters[0]
    dtype = next(tensor.dtype for tensor in first.values() if tensor.is_floating_point())
    stacked = {name: device.stack([own[name] for own in parameters]) for name in first}
    alike = all(x is inputs[0] for x in inputs)
    rows = device.hold(inputs[0]) if alike else device.stack(inputs)

    def forward(own: dict[str, Tensor], x: Tensor) -> tuple[Tensor, ...]:
        outputs: Outputs = functional_call(module, own, (x,))
        return tuple(output for output in outputs if output is not None)

    forward_all = torch.vmap(forward, in_dims=(0, None if alike else 0))
    parts = torch.split(rows, max(1, SAMPLES_AT_ONCE // len(parameters)), dim=0 if alike else 1)
    computed = [forward_all(stacked, as_numbers(part, dtype)) for part in parts]
    outputs = _fetch(Outputs(*(torch.cat(pieces, dim=1) for pieces in zip(*computed, strict=True))), device)
    return [_of_client(outputs, client, len(x)) for client, x in enumerate(inputs)]


def _of_client(outputs: Outputs, client: int, number: int) -> Outputs:
    fused = None if outputs.fused_logits is None else outputs.fused_logits[client, :number]
    return Outputs(outputs.logits[client, :number], outputs.features[client, :number], fused)


def _fetch(outputs: Outputs, device: Device) -> Outputs:
    return Outputs(**device.fetch({name: output for name, output in outputs._asdict().items() if output is not None}))


def _concatenate(parts: list[Outputs]) -> Outputs:
    if len(parts) == 1:
        return parts[0]
    fused = [part.fused_logits for part in parts if part.fused_logits is not None]
    return Outputs(
        torch.cat([part.logits for part in parts]),
        torch.cat([part.features for part in parts]),
        torch.cat(fused) if fused else None,
    )
