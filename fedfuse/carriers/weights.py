"""The model's parameters and buffers, where a method wants them; absorbed by loading them."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from fedfuse.carriers.expectation import Expectation
from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.fit import Fit
from fedfuse.client.state import ClientState
from fedfuse.knowledge import InvalidKnowledgeError, Tensors, WeightStack
from fedfuse.messages import Request

DTYPES = (torch.float32, torch.float64, torch.int64, torch.bool)


def express(
    clients: Sequence[Client],
    states: Sequence[ClientState],
    requests: Sequence[Request],
    settings: ClientSettings,
) -> list[Tensors]:
    """Return the weights as they are."""
    return [state.parameters for state in states]


def check(tensors: Tensors, expected: Expectation) -> None:
    """Raise `InvalidKnowledgeError` unless these are weights of the client's architecture."""
    if {name: tensor.shape for name, tensor in tensors.items()} != dict(expected.shapes):
        raise InvalidKnowledgeError("weights do not have the names and shapes of the client's architecture")
    unknown = {str(tensor.dtype) for tensor in tensors.values() if tensor.dtype not in DTYPES}
    if unknown:
        raise InvalidKnowledgeError(f"weights have type {', '.join(sorted(unknown))}")


def stack(tensors: Sequence[Tensors], expected: Sequence[Expectation]) -> tuple[WeightStack, ...]:
    """Stack checked weights, one stack for each architecture, in the order of their first client."""
    positions: dict[str, list[int]] = {}
    for position, known in enumerate(expected):
        positions.setdefault(known.architecture, []).append(position)
    return tuple(
        WeightStack(
            architecture=architecture,
            positions=torch.tensor(members),
            weights={name: torch.stack([tensors[member][name] for member in members]) for name in tensors[members[0]]},
        )
        for architecture, members in positions.items()
    )


def absorb(
    clients: Sequence[Client],
    states: Sequence[ClientState],
    requests: Sequence[Request],
    settings: ClientSettings,
    fit: Fit,
) -> list[ClientState]:
    """Replace each client's weights by the fused ones."""
    loaded = []
    for client, state, request in zip(clients, states, requests, strict=True):
        tensors = (request.fused or {})["weights"]
        if {name: tensor.shape for name, tensor in tensors.items()} != dict(client.architecture.shapes):
            raise InvalidKnowledgeError("fused weights do not fit this client's architecture")
        parameters = {name: tensor.to(state.parameters[name].dtype) for name, tensor in tensors.items()}
        loaded.append(replace(state, parameters=parameters))
    return loaded
