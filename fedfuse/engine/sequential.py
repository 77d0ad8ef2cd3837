"""The sequential runner: one client at a time on an ordinary module. Works for every model."""

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
)


def fit(jobs: Sequence[FitJob]) -> list[FitResult]:
    """Train each client in turn.

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
    memory_format = torch.channels_last if _has_convolutions(module) else torch.contiguous_format
    dtype = next(iter(job.parameters.values())).dtype
    module.to(dtype=dtype)
    module.load_state_dict(dict(job.parameters))
    module.to(memory_format=memory_format)  # type: ignore[call-overload]
    module.train()
    optimizer = make_optimizer(job.optimizer, module.parameters())
    state = dict(job.objective_state) or initial_objective_state(job.terms)
    for step in range(job.num_steps):
        batches, masks = {}, {}
        for name, stream in job.streams.items():
            batches[name], masks[name] = _batch(stream, step)
        optimizer.zero_grad(set_to_none=True)
        loss, state = loss_of_step(module, job.terms, batches, masks, state)
        torch.autograd.backward(loss)
        optimizer.step()
    parameters = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }
    return FitResult(parameters, state)


def _batch(stream: Stream, step: int) -> tuple[dict[str, Tensor], Tensor]:
    # Padding is left out: a smaller batch is cheaper than a masked one, and the mean over it is the same.
    rows = stream.plan[step]
    rows = rows[rows >= 0]
    batch = {name: tensor[rows] for name, tensor in stream.tensors.items()}
    return batch | dict(stream.constants), torch.ones(len(rows), dtype=torch.bool)


def _has_convolutions(module: nn.Module) -> bool:
    return any(isinstance(layer, nn.Conv2d) for layer in module.modules())
