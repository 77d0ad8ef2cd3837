"""How likely a client's own data make a sample: a Gaussian kernel density of its training inputs.

It is estimated in a space that is the same for all clients, because features of different models could not be compared.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from fedfuse.client.client import Client, ClientSettings
from fedfuse.data.federation import ClientData, TransferSet
from fedfuse.data.samples import as_numbers
from fedfuse.randomness import numpy_generator

# More samples of a client than these add cost, not knowledge: the density of so many is already smooth.
LARGEST_REFERENCE = 1000
# Inputs of more numbers are projected on the principal components of the transfer set, which everybody can compute.
LARGEST_DIMENSION = 64
NUM_COMPONENTS = 30
# Bandwidths that are tried, relative to the spread of the transfer set.
RELATIVE_BANDWIDTHS = torch.logspace(math.log10(0.05), math.log10(2), 16, dtype=torch.float64)
# Stands for the logarithm of zero, which cannot travel.
LOWEST_LOG_DENSITY = -1e6


@dataclass(frozen=True, eq=False)
class Density:
    r"""A density with Gaussian kernels around a client's samples.

    .. math:: \log p(x) = \log \frac{1}{n} \sum_i \mathcal N(x;\, r_i,\, h^2 I)

    Parameters
    ----------
    mean, axes : Tensor
        The shared space: inputs ``[B, D]`` are ``(inputs - mean) @ axes`` there, ``[B, d]``.
    reference : Tensor
        The samples r in that space, float64 ``[n, d]``.
    bandwidth : Tensor
        h.
    own : Tensor
        The log-density of each reference sample given the others, ascending ``[n]``; empty for fewer than two.
    """

    mean: Tensor
    axes: Tensor
    reference: Tensor
    bandwidth: Tensor
    own: Tensor

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return log-densities at inputs ``[B, *shape]``: float64 ``[B]``, `LOWEST_LOG_DENSITY` at least.

        That everywhere without a reference sample.
        """
        points = (_flat(inputs) - self.mean) @ self.axes
        if len(self.reference) == 0:
            return points.new_full((len(points),), LOWEST_LOG_DENSITY)
        return _log_density(torch.cdist(points, self.reference).square(), self.bandwidth, self.reference.shape)


# What was estimated, and for which transfer set and seed: neither these nor a client's data change during a run, and an
# estimate from a thousand samples takes some tenths of a second.
_DENSITIES: WeakKeyDictionary[ClientData, tuple[tuple[TransferSet, int], Density]] = WeakKeyDictionary()


def densities_of(clients: Sequence[Client], settings: ClientSettings) -> list[Density]:
    """Estimate the density of each client's training data; what was estimated before is remembered."""
    inputs = (settings.transfer, settings.seed)
    new = [client for client in clients if _DENSITIES.get(client.data, (None, None))[0] != inputs]
    if new:
        transfer = _flat(settings.transfer.inputs)
        mean, axes = shared_space(transfer)
        spread = ((transfer - mean) @ axes).var(0, correction=0).mean().sqrt().item() or 1.0
        for client in new:
            generator = numpy_generator(settings.seed, "densities", client=client.client_id)
            order = torch.from_numpy(generator.permutation(len(client.data.train)))
            reference = (_flat(client.data.train.inputs[order[:LARGEST_REFERENCE]]) - mean) @ axes
            bandwidth, own = choose_bandwidth(reference, spread * RELATIVE_BANDWIDTHS)
            _DENSITIES[client.data] = inputs, Density(mean, axes, reference, bandwidth, own.sort().values)
    return [_DENSITIES[client.data][1] for client in clients]


def shared_space(transfer: Tensor) -> tuple[Tensor, Tensor]:
    """Choose the space in which densities are estimated, from the transfer set alone.

    Parameters
    ----------
    transfer : Tensor
        Flattened inputs, float64 ``[M, D]``.

    Returns
    -------
    mean : Tensor
        ``[D]``, to be subtracted first.
    axes : Tensor
        ``[D, d]``, orthonormal: all D directions where they are few, else at most `NUM_COMPONENTS` principal
        components of up to `LARGEST_REFERENCE` transfer samples.
    """
    mean = transfer.mean(0)
    if transfer.shape[1] <= LARGEST_DIMENSION:
        return mean, torch.eye(transfer.shape[1], dtype=transfer.dtype)
    some = transfer[:LARGEST_REFERENCE]
    return mean, torch.linalg.svd(some - some.mean(0), full_matrices=False).Vh[:NUM_COMPONENTS].T


def choose_bandwidth(reference: Tensor, bandwidths: Tensor) -> tuple[Tensor, Tensor]:
    """Choose the bandwidth by which every sample is, on average, likeliest given the others.

    Parameters
    ----------
    reference : Tensor
        The samples, float64 ``[n, d]``.
    bandwidths : Tensor
        The candidates, positive, ``[B]``. Of a single sample nothing can be told, so it takes the widest.

    Returns
    -------
    bandwidth : Tensor
        The chosen one.
    own : Tensor
        The log-density of each sample given the others, ``[n]``; empty for fewer than two.
    """
    number, dimension = reference.shape
    if number < 2:
        return bandwidths.max(), reference.new_empty(0)
    squared_distances = torch.cdist(reference, reference).square().fill_diagonal_(math.inf)
    others = torch.Size((number - 1, dimension))
    candidates = torch.stack([_log_density(squared_distances, tried, others) for tried in bandwidths])
    best = candidates.mean(1).argmax()
    return bandwidths[best], candidates[best]


def _log_density(squared_distances: Tensor, bandwidth: Tensor, kernels: torch.Size) -> Tensor:
    """Return log-densities from squared distances ``[B, n]`` to kernels, of which there are ``kernels`` (n, d)."""
    number, dimension = kernels
    normaliser = math.log(number) + dimension * torch.log(math.sqrt(2 * math.pi) * bandwidth)
    exponents = -squared_distances / (2 * bandwidth**2)
    return (torch.logsumexp(exponents, 1) - normaliser).clamp_min(LOWEST_LOG_DENSITY)


def _flat(inputs: Tensor) -> Tensor:
    return as_numbers(inputs, torch.float64).flatten(1)
