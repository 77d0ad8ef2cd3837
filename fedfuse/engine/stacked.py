"""The stacked runner: all clients of one architecture at once, their parameters stacked along a first dimension.

Equal to the sequential runner up to rounding: the loss is the sum over clients of masked means, so each client's
gradient is its own, and the optimisers work element by element. A client that has fewer steps than the others is read
out after its own last step; what the optimiser does to its row afterwards is thrown away.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call

from fedfuse.client.fit import (
    FitJob,
    FitResult,
    Stream,
    initial_objective_state,
    loss_of_step,
    make_optimizer,
    pull_back,
)
from fedfuse.data.samples import as_numbers
from fedfuse.models.outputs import Outputs


def fit(jobs: Sequence[FitJob]) -> list[FitResult]:
    """Train all clients together.

    Parameters
    ----------
    jobs : Sequence[FitJob]
        Clients of one architecture with the same terms and optimiser. The architecture has no dropout and no batch
        normalisation (see `fedfuse.engine.runner`).

    Returns
    -------
    list[FitResult]
        In the order of the jobs.
    """
    if not jobs:
        return []
    module = jobs[0].architecture.module()
    terms = jobs[0].terms
    dtype = next(tensor.dtype for tensor in jobs[0].parameters.values() if tensor.is_floating_point())
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    stacked = {name: torch.stack([job.parameters[name] for job in jobs]) for name in jobs[0].parameters}
    parameters = {name: tensor.requires_grad_() for name, tensor in stacked.items() if name in trained}
    fixed = {name: tensor for name, tensor in stacked.items() if name not in trained}
    optimizer = make_optimizer(jobs[0].optimizer, parameters.values())
    start = [parameter.detach().clone() for parameter in parameters.values()] if jobs[0].proximal else []
    streams = {name: _StackedStream([job.streams[name] for job in jobs], dtype) for name in jobs[0].streams}
    states = [dict(job.objective_state) or initial_objective_state(terms) for job in jobs]
    state = {name: torch.stack([own[name] for own in states]) for name in states[0]}

    def loss_of_client(
        own_parameters: dict[str, Tensor],
        own_fixed: dict[str, Tensor],
        batches: dict[str, dict[str, Tensor]],
        masks: dict[str, Tensor],
        own_state: dict[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        def forward(inputs: Tensor) -> Outputs:
            outputs: Outputs = functional_call(module, own_parameters | own_fixed, (inputs,))
            return outputs

        def head(features: Tensor) -> Tensor:
            own = {
                name.removeprefix("head."): tensor
                for name, tensor in (own_parameters | own_fixed).items()
                if name.startswith("head.")
            }
            logits: Tensor = functional_call(module.get_submodule("head"), own, (features,))
            return logits

        return loss_of_step(forward, head, terms, batches, masks, own_state)

    losses_of_clients = torch.vmap(loss_of_client)
    results: list[FitResult | None] = [None] * len(jobs)
    for step in range(max(job.num_steps for job in jobs) + 1):
        for row, job in enumerate(jobs):
            if job.num_steps == step:
                results[row] = _read_row(stacked, state, row)
        if all(result is not None for result in results):
            break
        batches, masks = {}, {}
        for name, stream in streams.items():
            batches[name], masks[name] = stream.batch(step)
        optimizer.zero_grad(set_to_none=True)
        losses, state = losses_of_clients(parameters, fixed, batches, masks, state)
        torch.autograd.backward(losses.sum())
        if jobs[0].proximal:
            pull_back(parameters.values(), start, jobs[0].proximal)
        optimizer.step()
    return [result for result in results if result is not None]


def _read_row(parameters: Mapping[str, Tensor], state: Mapping[str, Tensor], row: int) -> FitResult:
    return FitResult(
        {name: tensor[row].detach().clone() for name, tensor in parameters.items()},
        {name: tensor[row].detach().clone() for name, tensor in state.items()},
    )


class _StackedStream:
    """One stream of all clients: tensors padded to the longest, or held once where all clients share them."""

    def __init__(self, streams: Sequence[Stream], dtype: torch.dtype) -> None:
        self._dtype = dtype
        steps = max(len(stream.plan) for stream in streams)
        self._plan = torch.stack(
            [torch.nn.functional.pad(stream.plan, (0, 0, 0, steps - len(stream.plan)), value=-1) for stream in streams]
        )
        self._client = torch.arange(len(streams)).unsqueeze(1)
        self._shared: dict[str, Tensor] = {}
        self._own: dict[str, Tensor] = {}
        for name, first in streams[0].tensors.items():
            tensors = [stream.tensors[name] for stream in streams]
            if all(tensor is first for tensor in tensors):
                self._shared[name] = first
            else:
                self._own[name] = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)
        self._constants = {
            name: torch.stack([stream.constants[name] for stream in streams]) for name in streams[0].constants
        }

    def batch(self, step: int) -> tuple[dict[str, Tensor], Tensor]:
        """Return the tensors ``[K, B, ...]`` and the mask ``[K, B]`` of one step."""
        rows = self._plan[:, step]
        mask = rows >= 0
        # Padding repeats the first sample of its batch: nothing enters that would not enter anyway.
        rows = torch.where(mask, rows, rows[:, :1].clamp_min(0))
        batch = {name: tensor[rows] for name, tensor in self._shared.items()}
        batch |= {name: tensor[self._client, rows] for name, tensor in self._own.items()}
        if "inputs" in batch:
            batch["inputs"] = as_numbers(batch["inputs"], self._dtype)
        return batch | self._constants, mask
