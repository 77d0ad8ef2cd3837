"""The gradients of a private step, as every runner computes them: clip what each sample says, sum, add noise, divide.

Source: Abadi et al., CCS 2016, arXiv 1607.00133, algorithm 1. What an optimiser, weight decay or a proximal pull does
with such gradients looks at no sample again, so it takes nothing away from what they promise.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from fedfuse.client.fit import FitJob, Term, loss_of_outputs, named_terms
from fedfuse.models.fused_head import FUSED_HEAD
from fedfuse.models.outputs import Outputs
from fedfuse.privacy.normals import standard_normals

# How much memory the gradients of single samples may take at once: about a cache of 32 MiB (measured).
GRADIENT_BYTES = 2**25
# How many numbers of noise are drawn at once: few enough for a cache of some MiB, many enough for few calls (measured).
NUMBERS_AT_ONCE = 2**18


def learning(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the fused head: it learns from no private sample, so that noise on it would hide nothing."""
    return {name: tensor for name, tensor in parameters.items() if not name.startswith(f"{FUSED_HEAD}.")}


def clip_factors(squared_norms: Tensor, clip: float) -> Tensor:
    """Return what to multiply gradients with, so that their norms are ``clip`` at most.

    A gradient that is not finite gets 0, and must be left out: scaled down it would still be none.
    """
    factors = (clip / squared_norms.sqrt()).clamp_max(1)
    # False for NaN too, and quicker than to ask whether they are finite.
    return torch.where(squared_norms < torch.inf, factors, 0)


def clipped_sums(
    module: nn.Module,
    term: Term,
    clip: float,
    parameters: dict[str, Tensor],
    fixed: dict[str, Tensor],
    batch: dict[str, Tensor],
    mask: Tensor,
    samples_at_once: int,
) -> dict[str, Tensor]:
    """Sum the clipped gradients of one client's batch; can be run by `torch.vmap` for many clients.

    Every sample enters the model alone, so that no layer can mix it with others.

    Parameters
    ----------
    module : nn.Module
        The model.
    term : Term
        The loss, an objective without a memory.
    clip : float
        The largest norm of a sample's gradient by all parameters together.
    parameters, fixed : dict[str, Tensor]
        What is trained, and what else of the model is the client's own.
    batch, mask : dict[str, Tensor], Tensor
        Tensors ``[B, ...]`` and bool ``[B]``, false in padding rows. B may be 0.
    samples_at_once : int
        For how many samples gradients are held at once.

    Returns
    -------
    dict[str, Tensor]
        By the name of the parameter.
    """

    def loss_of_sample(parameters: dict[str, Tensor], sample: dict[str, Tensor]) -> Tensor:
        alone = {name: tensor.unsqueeze(0) for name, tensor in sample.items()}
        outputs: Outputs = functional_call(module, fixed | parameters, (alone["inputs"],))
        counted = torch.ones(1, dtype=torch.bool, device=mask.device)
        batches, masks = {term.stream: alone}, {term.stream: counted}
        loss, _ = loss_of_outputs({term.stream: outputs}, named_terms([term]), batches, masks, {})
        return loss

    gradients_of_samples = torch.vmap(grad(loss_of_sample), in_dims=(None, 0), randomness="different")
    sums = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
    for first in range(0, len(mask), samples_at_once):
        rows = slice(first, first + samples_at_once)
        gradients = gradients_of_samples(parameters, {name: tensor[rows] for name, tensor in batch.items()})
        flat = {name: gradient.flatten(1) for name, gradient in gradients.items()}
        squared = torch.stack([torch.linalg.vecdot(own, own) for own in flat.values()]).sum(0)
        factors = torch.where(mask[rows], clip_factors(squared, clip), 0)
        kept = (factors > 0).unsqueeze(1)
        for name, gradient in flat.items():
            # Replaced, not multiplied: 0 * inf would be NaN.
            sums[name] = sums[name] + (factors @ torch.where(kept, gradient, 0)).reshape(sums[name].shape)
    return sums


def samples_at_once(parameters: Mapping[str, Tensor]) -> int:
    """Say for how many samples, of each client, gradients fit the memory that they may take."""
    numbers = sum(tensor.numel() * tensor.element_size() for tensor in parameters.values())
    return max(1, GRADIENT_BYTES // numbers)


def noised_means(sums: Mapping[str, Tensor], jobs: Sequence[FitJob], step: int) -> dict[str, Tensor]:
    """Turn sums of clipped gradients, ``[K, ...]`` by name, into what the optimisers of K clients take."""
    expected = expected_batch_sizes(jobs)
    means = {name: own / expected.to(own).reshape(-1, *[1] * (own.ndim - 1)) for name, own in sums.items()}
    add_noise(means, jobs, step)
    return means


def expected_batch_sizes(jobs: Sequence[FitJob]) -> Tensor:
    """Return what the sums of clients are divided by, float64 ``[K]``."""
    sizes = [1.0 if job.private is None else job.private.expected_batch_size for job in jobs]
    return torch.tensor(sizes, dtype=torch.float64)


def add_noise(means: Mapping[str, Tensor], jobs: Sequence[FitJob], step: int) -> None:
    """Add the noise of one step, in the size that it has on gradients divided by the expected batch size.

    Parameters
    ----------
    means : Mapping[str, Tensor]
        ``[K, ...]`` by name: the gradients of all that is trained, in the order of the model.
    jobs : Sequence[FitJob]
        K clients; who has ended draws nothing.
    step : int
        The number of the step.
    """
    sizes = [tensor[0].numel() for tensor in means.values()]
    dtype = next(iter(means.values())).dtype
    height = max(1, NUMBERS_AT_ONCE // sum(sizes))
    for first in range(0, len(jobs), height):
        rows = slice(first, first + height)
        private = {row: job.private for row, job in enumerate(jobs[rows]) if job.private and step < job.num_steps}
        scales = [own.noise_multiplier * own.clip / own.expected_batch_size for own in private.values()]
        drawn = standard_normals([own.noise for own in private.values()], sum(sizes)).to(dtype)
        drawn.mul_(torch.tensor(scales, dtype=dtype).unsqueeze(1))
        if len(private) < len(jobs[rows]):
            drawn = drawn.new_zeros(len(jobs[rows]), sum(sizes)).index_copy_(
                0, torch.tensor([*private], dtype=torch.int64), drawn
            )
        for own, part in zip(means.values(), torch.split(drawn, sizes, dim=1), strict=True):
            own[rows].add_(part.reshape(own[rows].shape).to(own.device))
