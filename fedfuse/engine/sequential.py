"""The sequential runner: one client at a time on an ordinary module. Works for every model."""

import hashlib
from collections.abc import Sequence

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
    module = jobs[0].architecture.module()
    return [_fit_one(module, job) for job in jobs]


def _fit_one(module: nn.Module, job: FitJob) -> FitResult:
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
    state = dict(job.objective_state) or initial_objective_state(job.terms)

    def head(features: Tensor) -> Tensor:
        # Looked up only now, because a model that learns from inputs alone need not have one.
        logits: Tensor = module.get_submodule("head")(features)
        return logits

    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: it seeds accelerators too, and here only the CPU's generator is put back.
        torch.default_generator.manual_seed(_seed_of_draws(job))
        for step in range(job.num_steps):
            batches, masks = {}, {}
            for name, stream in job.streams.items():
                batches[name], masks[name] = batch_of(stream, step, dtype)
            has_variance = all(len(mask) > 1 for name, mask in masks.items() if "inputs" in batches[name])
            for layer in batch_norms:
                layer.train(has_variance)
            optimizer.zero_grad(set_to_none=True)
            loss, state = loss_of_step(module, head, job.terms, batches, masks, state)
            torch.autograd.backward(loss)
            if job.proximal:
                pull_back(module.parameters(), start, job.proximal)
            optimizer.step()
    parameters = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }
    return FitResult(parameters, state)


def _seed_of_draws(job: FitJob) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(job.streams):
        digest.update(job.streams[name].plan.numpy().tobytes())
    return int.from_bytes(digest.digest(), "big") >> 1


def batch_of(stream: Stream, step: int, dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor]:
    """Take the samples of one step out of a stream, and the mask that says that none of them is padding."""
    # Padding is left out: a smaller batch is cheaper than a masked one, and the mean over it is the same.
    rows = stream.plan[step]
    rows = rows[rows >= 0]
    batch = {name: tensor[rows] for name, tensor in stream.tensors.items()}
    if "inputs" in batch:
        batch["inputs"] = as_numbers(batch["inputs"], dtype)
    return batch | dict(stream.constants), torch.ones(len(rows), dtype=torch.bool)
