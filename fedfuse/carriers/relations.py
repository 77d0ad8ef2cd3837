"""How far apart a model sees transfer samples: relative distances of their features; learnt from with the soft labels.

Distances fit models of any architecture and any width of features. They show the geometry of a client's features, so
the server learns which transfer samples its model takes for alike; the protectors of soft labels leave them as they
are. A number for each pair travels, the upper triangle of the symmetric matrix: 180 kB in float32 for 300 transfer
samples, 2 MB for 1000. The server holds that of all clients at once, 200 MB for 100 of them and 1000 samples. With a
larger transfer set, ask for a part of it in each round.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedfuse.carriers.expectation import Expectation
from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.fit import Fit
from fedfuse.client.predict import predict
from fedfuse.client.state import ClientState
from fedfuse.knowledge import InvalidKnowledgeError, Tensors, both_of_pairs
from fedfuse.messages import Request

# How far the mean distance may be above one: rounding to float32 stays below it.
SCALE_TOLERANCE = 1e-3


def express(
    clients: Sequence[Client],
    states: Sequence[ClientState],
    requests: Sequence[Request],
    settings: ClientSettings,
) -> list[Tensors]:
    """Measure the distances between the features of the transfer samples that were asked for.

    Returns
    -------
    list[Tensors]
        ``relations`` ``[R (R - 1) / 2]``, see `relative_distances`, and ``rows`` (int32 ``[R]``).
    """
    inputs = []
    for request in requests:
        if request.rows is None:
            raise InvalidKnowledgeError("relations were asked for without saying on which rows")
        inputs.append(settings.transfer.inputs[request.rows])
    outputs = predict(clients[0].architecture, [state.parameters for state in states], inputs)
    return [
        {"relations": relative_distances(own.features).to(settings.dtype), "rows": request.rows.to(torch.int32)}
        for own, request in zip(outputs, requests, strict=True)
        if request.rows is not None
    ]


def relative_distances(features: Tensor) -> Tensor:
    r"""Return the distance of every pair of samples, relative to the mean of those above zero.

    .. math:: d_{ij} = \|f_i - f_j\| \,/\, \mathrm{mean}_{d > 0} \|f_k - f_l\|

    Parameters
    ----------
    features : Tensor
        ``[R, D]``.

    Returns
    -------
    Tensor
        float64 ``[R (R - 1) / 2]``: the pairs (0, 1), (0, 2), ..., (1, 2), ... of the upper triangle. All zero where
        all features are the same.
    """
    # Squares of large features would overflow in float32.
    distances = torch.nn.functional.pdist(features.double())
    number = (distances > 0).sum().clamp_min(1)
    return distances / (distances.sum() / number).clamp_min(torch.finfo(distances.dtype).tiny)


def check(tensors: Tensors, expected: Expectation) -> None:
    """Raise `InvalidKnowledgeError` unless these are relative distances on the rows that were asked for."""
    if set(tensors) != {"relations", "rows"}:
        raise InvalidKnowledgeError(f"relations came as {sorted(tensors)}")
    relations = tensors["relations"]
    shape = (_num_pairs(len(expected.rows)),)
    if relations.shape != shape:
        raise InvalidKnowledgeError(f"relations have shape {list(relations.shape)}, expected {list(shape)}")
    if relations.dtype not in (torch.float32, torch.float64):
        raise InvalidKnowledgeError(f"relations have type {relations.dtype}")
    if not torch.equal(tensors["rows"].to(torch.int64), expected.rows):
        raise InvalidKnowledgeError("relations are on other transfer rows than were asked for")
    if (relations < 0).any():
        raise InvalidKnowledgeError("relations are negative")
    # Larger ones would outweigh those of all other clients.
    if relations.sum(dtype=torch.float64) > (1 + SCALE_TOLERANCE) * len(relations):
        raise InvalidKnowledgeError("relations are not relative to their mean")


def stack(tensors: Sequence[Tensors], expected: Sequence[Expectation]) -> Tensors:
    """Stack checked relations of N clients.

    Returns
    -------
    Tensors
        ``relations`` ``[N, P]`` for the P pairs of the transfer samples that any client answered, in the order of the
        upper triangle, zero where a client did not answer both; and ``mask`` ``[N, M]`` of the samples answered.
    """
    mask = torch.zeros(len(tensors), expected[0].num_transfer, dtype=torch.bool)
    for position, known in enumerate(expected):
        mask[position, known.rows] = True
    both = both_of_pairs(mask[:, mask.any(0)])
    relations = tensors[0]["relations"].new_zeros(both.shape)
    for own, pairs, values in zip(tensors, both, relations, strict=True):
        # The pairs of some samples are in the same order as those of all.
        values[pairs] = own["relations"].to(values.dtype)
    return {"relations": relations, "mask": mask}


def absorb(
    clients: Sequence[Client],
    states: Sequence[ClientState],
    requests: Sequence[Request],
    settings: ClientSettings,
    fit: Fit,
) -> list[ClientState]:
    """Keep the fused relations: an objective learns from them together with the fused soft labels.

    Kept are ``relations`` ``[M, R]``, the distance of every transfer sample from the R related ones, ``positions``
    (int64 ``[M]``), which of these R each sample is, and ``known`` (bool ``[M]``), whether it is one at all.
    """
    kept: list[ClientState] = []
    received: Tensors = {}
    unpacked: Tensors = {}
    for state, request in zip(states, requests, strict=True):
        tensors = (request.fused or {})["relations"]
        # Clients mostly receive the same; a matrix for each would be the largest thing in memory.
        if not received or not all(torch.equal(tensors[name], received[name]) for name in ("relations", "rows")):
            received, unpacked = tensors, _unpack(tensors, settings)
        kept.append(replace(state, received={**state.received, "relations": unpacked}))
    return kept


def _unpack(tensors: Tensors, settings: ClientSettings) -> Tensors:
    rows, num_transfer = tensors["rows"].to(torch.int64), len(settings.transfer)
    fits = rows.ndim == 1 and tensors["relations"].shape == (_num_pairs(len(rows)),)
    if not fits or (len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < num_transfer):
        raise InvalidKnowledgeError("fused relations do not fit this client's transfer set")
    number = len(rows)
    first, second = torch.triu_indices(number, number, offset=1)
    relations = torch.zeros(num_transfer, number, dtype=settings.dtype)
    relations[rows[first], second] = tensors["relations"].to(settings.dtype)
    relations[rows[second], first] = tensors["relations"].to(settings.dtype)
    positions = torch.zeros(num_transfer, dtype=torch.int64)
    positions[rows] = torch.arange(number)
    known = torch.zeros(num_transfer, dtype=torch.bool)
    known[rows] = True
    return {"relations": relations, "positions": positions, "known": known}


def _num_pairs(number: int) -> int:
    return number * (number - 1) // 2
