"""The stacked runner: all clients of one architecture at once, their parameters stacked along a first dimension.

Equal to the sequential runner up to rounding: the loss is the sum over clients of masked means, so each client's
gradient is its own, and the optimisers work element by element. A client that has fewer steps than the others is read
out after its own last step; what the optimiser does to its row afterwards is thrown away.

Stacks of linear layers with ReLU have a way of their own on the processor, see `fedfuse.engine.perceptron`.

On a CUDA device nothing waits for a result before the last step is under way. Where a cohort is too small to keep the
device busy, all steps but the first are replays of one recording (a CUDA graph): a step is hundreds of small kernels,
which take longer to start than to run.
"""

import contextlib
import logging
import warnings
from collections.abc import Mapping, Sequence
from functools import partial

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
from fedfuse.device import Device, current_device
from fedfuse.engine import perceptron
from fedfuse.engine.private_gradients import clipped_sums, learning, noised_means, samples_at_once
from fedfuse.models.outputs import Outputs
from fedfuse.models.unfolded import unfold_convolutions

logger = logging.getLogger(__name__)

# A recording costs about as much as two steps.
FEWEST_RECORDED_STEPS = 3
# Operations of all clients' forward passes in a step: above this, computing takes longer than starting (measured).
LARGEST_RECORDED = 10**10


def fit(jobs: Sequence[FitJob]) -> list[FitResult]:
    """Train all clients together; on a CUDA device whose memory is too small for all of them, in halves.

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
    device = current_device()
    if jobs[0].architecture.perceptron is not None and not device.is_cuda and perceptron.can_fit(jobs[0]):
        return perceptron.fit(jobs)
    try:
        return _Training(jobs, device).run()
    except torch.OutOfMemoryError:
        if len(jobs) == 1:
            raise
    # Only here, because the exception held on to the memory of the attempt.
    torch.cuda.empty_cache()
    half = len(jobs) // 2
    return fit(jobs[:half]) + fit(jobs[half:])


class _Training:
    """One training of a cohort."""

    def __init__(self, jobs: Sequence[FitJob], device: Device) -> None:
        self._jobs = jobs
        self._device = device
        self._num_steps = max(job.num_steps for job in jobs)
        module = jobs[0].architecture.module().to(device.torch_device)
        self._module = unfold_convolutions(module) if device.is_cuda else module
        first = jobs[0].parameters
        dtype = next(tensor.dtype for tensor in first.values() if tensor.is_floating_point())
        trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
        self._stacked = {name: device.stack([job.parameters[name] for job in jobs]).clone() for name in first}
        self._parameters = {name: tensor.requires_grad_() for name, tensor in self._stacked.items() if name in trained}
        self._fixed = {name: tensor for name, tensor in self._stacked.items() if name not in trained}
        self._optimizer = make_optimizer(jobs[0].optimizer, self._parameters.values(), capturable=device.is_cuda)
        self._start = [value.detach().clone() for value in self._parameters.values()] if jobs[0].proximal else []
        self._streams = {
            name: _StackedStream([job.streams[name] for job in jobs], dtype, device) for name in jobs[0].streams
        }
        self._state = {
            name: device.stack([job.objective_state.get(name, value) for job in jobs])
            for name, value in initial_objective_state(jobs[0].terms).items()
        }
        # Counted on the device, so that a recording of one step takes the next batch every time it is replayed.
        self._step = torch.zeros(1, dtype=torch.int64, device=device.torch_device)
        self._recording: torch.cuda.CUDAGraph | None = None

    def run(self) -> list[FitResult]:
        """Train to the end and return the results."""
        last_steps = torch.tensor([job.num_steps for job in self._jobs])
        ending = {
            number: self._device.hold(torch.nonzero(last_steps == number).flatten())
            for number in sorted(set(last_steps.tolist()))
        }
        ended: list[tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]] = []
        for step in range(self._num_steps + 1):
            if step in ending:
                rows = ending[step]
                ended.append((rows, _rows_of(self._stacked, rows), _rows_of(self._state, rows)))
            if step < self._num_steps:
                self._advance(step)
        order = torch.cat([rows for rows, _, _ in ended]).argsort()
        parameters = self._each(_in_order([own for _, own, _ in ended], order))
        state = self._each(_in_order([own for _, _, own in ended], order))
        return [FitResult(own, memory) for own, memory in zip(parameters, state, strict=True)]

    def _each(self, stacked: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Take what is stacked apart into the clients' own tensors in the processor's memory."""
        apart = {name: [row.clone() for row in tensor] for name, tensor in self._device.fetch(stacked).items()}
        for name, tensor in stacked.items():
            self._device.keep(apart[name], tensor)
        return [{name: rows[row] for name, rows in apart.items()} for row in range(len(self._jobs))]

    def _advance(self, step: int) -> None:
        if step == 1 and self._pays_to_record():
            self._recording = self._record()
        if self._recording is not None:
            self._recording.replay()
        else:
            with warnings.catch_warnings():
                # The optimiser would rather be recorded from its first step.
                warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
                self._state = self._take_step()

    def _pays_to_record(self) -> bool:
        samples = sum(stream.samples_of_a_step for stream in self._streams.values())
        operations = samples * self._jobs[0].architecture.flops
        enough_steps = self._num_steps > FEWEST_RECORDED_STEPS
        # Noise is drawn by the processor, which a recording leaves out.
        is_private = self._jobs[0].private is not None
        return self._device.is_cuda and enough_steps and operations <= LARGEST_RECORDED and not is_private

    def _record(self) -> torch.cuda.CUDAGraph | None:
        """Record one step without taking it; nothing where it cannot be."""
        state = {name: value.clone(memory_format=torch.contiguous_format) for name, value in self._state.items()}
        before, self._state = self._state, state
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            for name, value in self._take_step().items():
                state[name].copy_(value)
            graph.capture_end()
        except RuntimeError as error:
            # An objective may do what cannot be recorded, for example copy a number from the processor.
            logger.info("Steps are taken one by one: %s", str(error).splitlines()[0])
            with contextlib.suppress(RuntimeError):
                graph.capture_end()
            self._state = before
            return None
        return graph

    def _take_step(self) -> dict[str, Tensor]:
        """Change the parameters, and return what the objectives remember next."""
        batches, masks = {}, {}
        for name, stream in self._streams.items():
            batches[name], masks[name] = stream.batch(self._step)
        self._optimizer.zero_grad(set_to_none=True)
        if self._jobs[0].private is None:
            # Not kept: it would hold on to itself, and so to the device's memory when the training is over.
            losses_of_clients = torch.vmap(self._loss_of_client)
            losses, state = losses_of_clients(self._parameters, self._fixed, batches, masks, self._state)
            torch.autograd.backward(losses.sum())
        else:
            self._find_private_gradients(batches["private"], masks["private"])
            state = self._state
        if self._start:
            pull_back(self._parameters.values(), self._start, self._jobs[0].proximal)
        self._optimizer.step()
        self._step += 1
        return state

    def _find_private_gradients(self, batch: dict[str, Tensor], mask: Tensor) -> None:
        first, trained = self._jobs[0], learning(self._parameters)
        assert first.private is not None, "the step is private"
        values = {name: own.detach() for name, own in trained.items()}
        fixed = {name: own.detach() for name, own in self._stacked.items() if name not in values}
        of_one = partial(
            clipped_sums, self._module, first.terms[0], first.private.clip, samples_at_once=samples_at_once(values)
        )
        sums: dict[str, Tensor] = torch.vmap(of_one)(values, fixed, batch, mask)
        means = noised_means(sums, self._jobs, int(self._step))
        for name, parameter in trained.items():
            # The optimiser wants gradients to lie in memory as the parameters do.
            parameter.grad = torch.empty_like(parameter).copy_(means[name])

    def _loss_of_client(
        self,
        parameters: dict[str, Tensor],
        fixed: dict[str, Tensor],
        batches: dict[str, dict[str, Tensor]],
        masks: dict[str, Tensor],
        state: dict[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        own = parameters | fixed

        def forward(inputs: Tensor) -> Outputs:
            outputs: Outputs = functional_call(self._module, own, (inputs,))
            return outputs

        def head(features: Tensor) -> Tensor:
            of_head = {name.removeprefix("head."): own[name] for name in own if name.startswith("head.")}
            logits: Tensor = functional_call(self._module.get_submodule("head"), of_head, (features,))
            return logits

        return loss_of_step(forward, head, self._jobs[0].terms, batches, masks, state)


def _rows_of(stacked: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    return {name: tensor.detach().index_select(0, rows) for name, tensor in stacked.items()}


def _in_order(parts: Sequence[Mapping[str, Tensor]], order: Tensor) -> dict[str, Tensor]:
    if len(parts) == 1:
        return dict(parts[0])
    return {name: torch.cat([part[name] for part in parts]).index_select(0, order) for name in parts[0]}


class _StackedStream:
    """One stream of all clients: tensors padded to the longest, or held once where all clients share them."""

    def __init__(self, streams: Sequence[Stream], dtype: torch.dtype, device: Device) -> None:
        self._dtype = dtype
        steps = max(len(stream.plan) for stream in streams)
        plan = torch.stack(
            [torch.nn.functional.pad(stream.plan, (0, 0, 0, steps - len(stream.plan)), value=-1) for stream in streams],
            dim=1,
        )
        self._masks = device.hold(plan >= 0)
        # Padding repeats the first sample of its batch: nothing enters that would not enter anyway.
        self._rows = device.hold(torch.where(plan >= 0, plan, plan[:, :, :1].clamp_min(0)))
        self._client = device.hold(torch.arange(len(streams)).unsqueeze(1))
        self._shared: dict[str, Tensor] = {}
        self._own: dict[str, Tensor] = {}
        for name, first in streams[0].tensors.items():
            tensors = [stream.tensors[name] for stream in streams]
            if all(tensor is first for tensor in tensors):
                self._shared[name] = device.hold(first)
            else:
                self._own[name] = device.stack(tensors)
        self._constants = {
            name: device.stack([stream.constants[name] for stream in streams]) for name in streams[0].constants
        }

    @property
    def samples_of_a_step(self) -> int:
        """How many samples of all clients together enter the models in a step."""
        has_inputs = "inputs" in self._shared or "inputs" in self._own
        return self._rows[0].numel() if has_inputs else 0

    def batch(self, step: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the tensors ``[K, B, ...]`` and the mask ``[K, B]`` of one step, whose number is int64 ``[1]``."""
        rows, mask = self._rows.index_select(0, step)[0], self._masks.index_select(0, step)[0]
        batch = {name: tensor[rows] for name, tensor in self._shared.items()}
        batch |= {name: tensor[self._client, rows] for name, tensor in self._own.items()}
        if "inputs" in batch:
            batch["inputs"] = as_numbers(batch["inputs"], self._dtype)
        return batch | self._constants, mask
