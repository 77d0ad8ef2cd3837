"""How likely a client's own data make each transfer sample; for fusion only, never absorbed.

A Gaussian kernel density of the training inputs, in a space that is the same for all clients: features of different
models could not be compared. It gives away more than soft labels do. The server learns which transfer samples resemble
a client's data, hence roughly which classes it holds, and a transfer sample that the client trains on stands out. The
protectors of soft labels leave it as it is.
"""

import math
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from fedfuse.carriers.expectation import Expectation
from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.fit import Fit
from fedfuse.client.state import ClientState
from fedfuse.data.federation import ClientData, TransferSet
from fedfuse.data.samples import as_numbers
from fedfuse.knowledge import InvalidKnowledgeError, Tensors
from fedfuse.messages import Request
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

# What was estimated, and for which transfer set and seed: neither these nor a client's data change during a run, and an
# estimate from a thousand samples takes some tenths of a second.
_ESTIMATES: WeakKeyDictionary[ClientData, tuple[tuple[TransferSet, int], Tensors]] = WeakKeyDictionary()


def express(
    clients: Sequence[Client],
    states: Sequence[ClientState],
    requests: Sequence[Request],
    settings: ClientSettings,
) -> list[Tensors]:
    """Estimate the density of each client's training data on the rows of the transfer set that were asked for.

    Returns
    -------
    list[Tensors]
        ``densities`` ``[R]``, logarithms; ``familiarity`` ``[R]``, the share of the client's own samples that are less
        likely than this one, each judged by the others; and ``rows`` (int32 ``[R]``) where they are not the whole set.
    """
    inputs = (settings.transfer, settings.seed)
    new = [client for client in clients if _ESTIMATES.get(client.data, (None, {}))[0] != inputs]
    for client, estimate in zip(new, _estimate(new, settings) if new else [], strict=True):
        _ESTIMATES[client.data] = inputs, estimate
    expressed: list[Tensors] = []
    for client, request in zip(clients, requests, strict=True):
        if request.rows is None:
            raise InvalidKnowledgeError("densities were asked for without saying on which rows")
        _, estimate = _ESTIMATES[client.data]
        tensors = {name: tensor[request.rows].to(settings.dtype) for name, tensor in estimate.items()}
        whole = len(request.rows) == len(settings.transfer)
        expressed.append(tensors if whole else {**tensors, "rows": request.rows.to(torch.int32)})
    return expressed


def _estimate(clients: Sequence[Client], settings: ClientSettings) -> list[Tensors]:
    transfer = _flat(settings.transfer.inputs)
    mean, axes = shared_space(transfer)
    points = (transfer - mean) @ axes
    spread = points.var(0, correction=0).mean().sqrt().item() or 1.0
    estimates: list[Tensors] = []
    for client in clients:
        generator = numpy_generator(settings.seed, "densities", client=client.client_id)
        order = torch.from_numpy(generator.permutation(len(client.data.train)))
        reference = (_flat(client.data.train.inputs[order[:LARGEST_REFERENCE]]) - mean) @ axes
        densities, own = kernel_density(reference, points, spread * RELATIVE_BANDWIDTHS)
        less_likely = torch.searchsorted(own.sort().values, densities)
        estimates.append({"densities": densities, "familiarity": less_likely.double() / max(1, len(own))})
    return estimates


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


def kernel_density(reference: Tensor, points: Tensor, bandwidths: Tensor) -> tuple[Tensor, Tensor]:
    r"""Estimate a density with Gaussian kernels of the likeliest bandwidth.

    .. math:: \log p(x) = \log \frac{1}{n} \sum_i \mathcal N(x;\, r_i,\, h^2 I)

    The bandwidth h is the one by which every reference sample is, on average, likeliest given the others.

    Parameters
    ----------
    reference : Tensor
        The samples r, float64 ``[n, d]``.
    points : Tensor
        Where the density is wanted, float64 ``[R, d]``.
    bandwidths : Tensor
        The candidates, positive, ``[B]``. Of a single sample nothing can be told, so it takes the widest.

    Returns
    -------
    densities : Tensor
        Logarithms, float64 ``[R]``, `LOWEST_LOG_DENSITY` at least; that everywhere without a reference sample.
    own : Tensor
        The log-density of each reference sample given the others, ``[n]``; empty for fewer than two.
    """
    number, dimension = reference.shape
    if number == 0:
        return points.new_full((len(points),), LOWEST_LOG_DENSITY), points.new_empty(0)

    def log_density(squared_distances: Tensor, bandwidth: Tensor, kernels: int) -> Tensor:
        exponents = -squared_distances / (2 * bandwidth**2)
        normaliser = math.log(kernels) + dimension * torch.log(math.sqrt(2 * math.pi) * bandwidth)
        return (torch.logsumexp(exponents, 1) - normaliser).clamp_min(LOWEST_LOG_DENSITY)

    bandwidth, own = bandwidths.max(), points.new_empty(0)
    if number > 1:
        squared_distances = torch.cdist(reference, reference).square().fill_diagonal_(math.inf)
        candidates = torch.stack([log_density(squared_distances, tried, number - 1) for tried in bandwidths])
        best = candidates.mean(1).argmax()
        bandwidth, own = bandwidths[best], candidates[best]
    return log_density(torch.cdist(points, reference).square(), bandwidth, number), own


def _flat(inputs: Tensor) -> Tensor:
    return as_numbers(inputs, torch.float64).flatten(1)


def check(tensors: Tensors, expected: Expectation) -> None:
    """Raise `InvalidKnowledgeError` unless these are densities on the rows that were asked for."""
    subset = len(expected.rows) != expected.num_transfer
    names = {"densities", "familiarity"}
    if set(tensors) != (names | {"rows"} if subset else names):
        raise InvalidKnowledgeError(f"densities came as {sorted(tensors)}")
    shape = (len(expected.rows),)
    for name in sorted(names):
        if tensors[name].shape != shape:
            raise InvalidKnowledgeError(f"{name} has shape {list(tensors[name].shape)}, expected {list(shape)}")
        if tensors[name].dtype not in (torch.float32, torch.float64):
            raise InvalidKnowledgeError(f"{name} has type {tensors[name].dtype}")
    if subset and not torch.equal(tensors["rows"].to(torch.int64), expected.rows):
        raise InvalidKnowledgeError("densities are on other transfer rows than were asked for")
    if not ((tensors["familiarity"] >= 0) & (tensors["familiarity"] <= 1)).all():
        raise InvalidKnowledgeError("familiarity is not between 0 and 1")


def stack(tensors: Sequence[Tensors], expected: Sequence[Expectation]) -> Tensors:
    """Stack checked densities of N clients.

    Returns
    -------
    Tensors
        ``densities`` and ``familiarity`` ``[N, M]``, zero in rows that a client did not answer, and ``mask``
        ``[N, M]``.
    """
    shape = (len(tensors), expected[0].num_transfer)
    stacked = {name: tensors[0][name].new_zeros(shape) for name in ("densities", "familiarity")}
    mask = torch.zeros(shape, dtype=torch.bool)
    for position, (own, known) in enumerate(zip(tensors, expected, strict=True)):
        for name, values in stacked.items():
            values[position, known.rows] = own[name].to(values.dtype)
        mask[position, known.rows] = True
    return {**stacked, "mask": mask}


def absorb(
    clients: Sequence[Client],
    states: Sequence[ClientState],
    requests: Sequence[Request],
    settings: ClientSettings,
    fit: Fit,
) -> list[ClientState]:
    """Refuse: a density is nothing that a model learns from."""
    raise InvalidKnowledgeError("densities cannot be absorbed")
