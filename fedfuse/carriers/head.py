"""The last layer of the model alone, from features to logits; absorbed by loading it.

It gives away less than all weights do, but its biases tell roughly which classes a client holds.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from fedfuse.carriers.expectation import Expectation
from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.fit import Fit
from fedfuse.client.state import ClientState
from fedfuse.knowledge import InvalidKnowledgeError, Tensors
from fedfuse.messages import Request

NAMES = ("weight", "bias")


def express(
    clients: Sequence[Client],
    states: Sequence[ClientState],
    requests: Sequence[Request],
    settings: ClientSettings,
) -> list[Tensors]:
    """Take each client's head out of its weights: ``weight`` ``[C, D]`` and ``bias`` ``[C]``."""
    if not clients[0].architecture.has_head:
        raise InvalidKnowledgeError("the model has no head of its own")
    return [{name: state.parameters[f"head.{name}"] for name in NAMES} for state in states]


def check(tensors: Tensors, expected: Expectation) -> None:
    """Raise `InvalidKnowledgeError` unless this is a head of the right shape and type."""
    shapes = {"weight": (expected.num_classes, expected.embedding_size), "bias": (expected.num_classes,)}
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != shapes:
        raise InvalidKnowledgeError(f"a head came as {sorted(tensors)}, expected {shapes}")
    if not all(tensor.dtype in (torch.float32, torch.float64) for tensor in tensors.values()):
        raise InvalidKnowledgeError("a head has the wrong type")


def stack(tensors: Sequence[Tensors], expected: Sequence[Expectation]) -> Tensors:
    """Stack the checked heads of N clients: ``weight`` ``[N, C, D]`` and ``bias`` ``[N, C]``."""
    return {name: torch.stack([own[name] for own in tensors]) for name in NAMES}


def absorb(
    clients: Sequence[Client],
    states: Sequence[ClientState],
    requests: Sequence[Request],
    settings: ClientSettings,
    fit: Fit,
) -> list[ClientState]:
    """Replace each client's head by the fused one."""
    loaded = []
    for client, state, request in zip(clients, states, requests, strict=True):
        tensors = (request.fused or {})["head"]
        head = {f"head.{name}": tensors[name].to(settings.dtype) for name in NAMES}
        if any(tensor.shape != client.architecture.shapes.get(name) for name, tensor in head.items()):
            raise InvalidKnowledgeError("the fused head does not fit this client's model")
        loaded.append(replace(state, parameters={**state.parameters, **head}))
    return loaded
