"""Labelled samples of the feature space that a server generated; absorbed by teaching the head them in the next learn.

Only a server sends them: what clients could send in this form would be their private features.
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


def express(
    clients: Sequence[Client],
    states: Sequence[ClientState],
    requests: Sequence[Request],
    settings: ClientSettings,
) -> list[Tensors]:
    """Refuse: a client generates nothing."""
    raise InvalidKnowledgeError("clients cannot send generated features")


def check(tensors: Tensors, expected: Expectation) -> None:
    """Raise `InvalidKnowledgeError` unless these are features of the right width, each with a label."""
    if set(tensors) != {"features", "labels"}:
        raise InvalidKnowledgeError(f"generated features came as {sorted(tensors)}")
    features, labels = tensors["features"], tensors["labels"]
    if features.ndim != 2 or features.shape[1] != expected.embedding_size or not features.is_floating_point():
        raise InvalidKnowledgeError(
            f"generated features are {features.dtype} {list(features.shape)}, expected numbers of shape "
            f"[any, {expected.embedding_size}]"
        )
    if labels.shape != features.shape[:1] or labels.dtype != torch.int64 or not len(labels):
        raise InvalidKnowledgeError("generated features need a label each, and one sample at least")
    if not 0 <= int(labels.min()) <= int(labels.max()) < expected.num_classes:
        raise InvalidKnowledgeError("generated features have labels of no class")


def stack(tensors: Sequence[Tensors], expected: Sequence[Expectation]) -> Tensors:
    """Refuse, see `express`."""
    raise InvalidKnowledgeError("clients cannot send generated features")


def absorb(
    clients: Sequence[Client],
    states: Sequence[ClientState],
    requests: Sequence[Request],
    settings: ClientSettings,
    fit: Fit,
) -> list[ClientState]:
    """Keep the generated features: the head learns from them in the next learn."""
    kept = []
    for client, state, request in zip(clients, states, requests, strict=True):
        tensors = (request.fused or {})["generated"]
        features, labels = tensors["features"].to(settings.dtype), tensors["labels"]
        if features.shape != (len(labels), client.architecture.embedding_size):
            raise InvalidKnowledgeError("generated features do not fit this client's")
        received = {"features": features, "labels": labels}
        kept.append(replace(state, received={**state.received, "generated": received}))
    return kept
