"""How likely a client's own data make each transfer sample; for fusion only, never absorbed.

How it is estimated: `fedfuse.client.density`. It gives away more than soft labels do. The server learns which transfer
samples resemble a client's data, hence roughly which classes it holds, and a transfer sample that the client trains on
stands out. The protectors of soft labels leave it as it is.
"""

from collections.abc import Sequence

import torch

from fedfuse.carriers.expectation import Expectation
from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.density import densities_of
from fedfuse.client.fit import Fit
from fedfuse.client.state import ClientState
from fedfuse.knowledge import InvalidKnowledgeError, Tensors
from fedfuse.messages import Request


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
    expressed: list[Tensors] = []
    for density, request in zip(densities_of(clients, settings), requests, strict=True):
        if request.rows is None:
            raise InvalidKnowledgeError("densities were asked for without saying on which rows")
        log_densities = density(settings.transfer.inputs[request.rows])
        familiarity = torch.searchsorted(density.own, log_densities).double() / max(1, len(density.own))
        tensors = {"densities": log_densities.to(settings.dtype), "familiarity": familiarity.to(settings.dtype)}
        whole = len(request.rows) == len(settings.transfer)
        expressed.append(tensors if whole else {**tensors, "rows": request.rows.to(torch.int32)})
    return expressed


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
