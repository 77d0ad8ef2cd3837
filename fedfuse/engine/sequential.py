"""The sequential runner: one client at a time on an ordinary module. Works for every model."""

import functools
import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

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
from fedfuse.engine.private_gradients import clipped_sums, learning, noised_means, samples_at_once

# A little less than 32 MiB, because the C library adds its own bytes.
LARGEST_PIECE = 2**25 - 2**14


def fit(jobs: Sequence[FitJob]) -> list[FitResult]:
    """Train each client in turn; torch's global generator is left as it was.

    What a model draws while it trains (dropout) follows from the order in which its samples come, which was drawn for
    this seed, verb, round and client. A batch of one sample has no variance: batch normalisation takes its running
    statistics there, and leaves them as they are.

    Parameters
    ----------
    jobs : Sequence[FitJob]
        Clients of one architecture.

    Returns
    -------
    list[FitResult]
        In the order of the jobs.
    """
    if not jobs:
        return []
    _keep_freed_memory()
    device = current_device()
    module = jobs[0].architecture.module().to(device.torch_device)
    return [_fit_one(module, job, device) for job in jobs]


@functools.cache
def _keep_freed_memory() -> None:
    # The C library (glibc) keeps what is freed, up to twice the largest piece of at most 32 MiB that was freed before.
    # Without one that large, it gives the maps of a step back and gets them anew, page by page.
    torch.empty(LARGEST_PIECE, dtype=torch.uint8)


def _fit_one(module: nn.Module, job: FitJob, device: Device) -> FitResult:
    memory_format = torch.channels_last if job.architecture.takes_channels_last else torch.contiguous_format
    dtype = next(tensor.dtype for tensor in job.parameters.values() if tensor.is_floating_point())
    module.to(dtype=dtype)
    module.load_state_dict(dict(job.parameters))
    module.to(memory_format=memory_format)  # type: ignore[call-overload]
    module.train()
    batch_norms = [
        layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training
    ]
    optimizer = make_optimizer(job.optimizer, module.parameters())
    start = [parameter.detach().clone() for parameter in module.parameters()] if job.proximal else []
    first_state = initial_objective_state(job.terms)
    state = {name: device.hold(job.objective_state.get(name, value)) for name, value in first_state.items()}
    streams = {name: _held(stream, device) for name, stream in job.streams.items()}

    def head(features: Tensor) -> Tensor:
        # Looked up only now, because a model that learns from inputs alone need not have one.
        logits: Tensor = module.get_submodule("head")(features)
        return logits

    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.is_cuda else []):
        # Not torch.manual_seed: it seeds every accelerator, and only one is put back here.
        torch.default_generator.manual_seed(_seed_of_draws(job))
        if device.is_cuda:
            torch.cuda.manual_seed(_seed_of_draws(job))
        for step, of_step in enumerate(zip(*(batches_of(stream, dtype) for stream in streams.values()), strict=True)):
            batches = {name: batch for name, (batch, _) in zip(streams, of_step, strict=True)}
            masks = {name: mask for name, (_, mask) in zip(streams, of_step, strict=True)}
            if batch_norms:
                has_variance = all(len(mask) > 1 for name, mask in masks.items() if "inputs" in batches[name])
                for layer in batch_norms:
                    layer.train(has_variance)
            optimizer.zero_grad(set_to_none=True)
            if job.private is None:
                loss, state = loss_of_step(module, head, job.terms, batches, masks, state, is_full=True)
                torch.autograd.backward(loss)
            else:
                _find_private_gradients(module, job, step, batches["private"], masks["private"])
            if job.proximal:
                pull_back(module.parameters(), start, job.proximal)
            optimizer.step()
    parameters = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }
    return FitResult(parameters, {name: tensor.cpu() for name, tensor in state.items()})


def _find_private_gradients(module: nn.Module, job: FitJob, step: int, batch: dict[str, Tensor], mask: Tensor) -> None:
    assert job.private is not None, "the step is private"
    trained = learning({name: own for name, own in module.named_parameters() if own.requires_grad})
    values = {name: own.detach() for name, own in trained.items()}
    sums = clipped_sums(module, job.terms[0], job.private.clip, values, {}, batch, mask, samples_at_once(values))
    means = noised_means({name: own.unsqueeze(0) for name, own in sums.items()}, [job], step)
    for name, parameter in trained.items():
        # The optimiser wants gradients to lie in memory as the parameters do.
        parameter.grad = torch.empty_like(parameter).copy_(means[name][0])


def _held(stream: Stream, device: Device) -> Stream:
    """Put a stream's samples on the device; the plan stays, because it says how large each batch is."""
    return Stream(
        {name: device.hold(tensor) for name, tensor in stream.tensors.items()},
        stream.plan,
        {name: device.hold(tensor) for name, tensor in stream.constants.items()},
    )


def _seed_of_draws(job: FitJob) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(job.streams):
        digest.update(job.streams[name].plan.numpy().tobytes())
    return int.from_bytes(digest.digest(), "big") >> 1


def batches_of(stream: Stream, dtype: torch.dtype) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Take the samples of each step out of a stream, and a mask that says that none of them is padding."""
    # Padding is left out: a smaller batch is cheaper than a masked one, and the mean over it is the same.
    is_sample = stream.plan >= 0
    rows_of_all = stream.plan[is_sample].to(next(iter(stream.tensors.values())).device)
    mask_of_all = torch.ones_like(rows_of_all, dtype=torch.bool)
    sizes = is_sample.sum(1).tolist()
    for rows, mask in zip(torch.split(rows_of_all, sizes), torch.split(mask_of_all, sizes), strict=True):
        batch = {name: tensor[rows] for name, tensor in stream.tensors.items()}
        if "inputs" in batch:
            batch["inputs"] = as_numbers(batch["inputs"], dtype)
        yield batch | dict(stream.constants), mask
