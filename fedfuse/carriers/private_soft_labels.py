"""Class probabilities for each client's own training samples; absorbed by distilling them in the next learn.

Only a server sends them: a client's own would say what ``private_features`` says.
"""

from collections.abc import Sequence
from dataclasses import replace

from fedfuse.carriers.expectation import Expectation
from fedfuse.carriers.soft_labels import SIMPLEX_TOLERANCE
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
    """Refuse: they are what comes back."""
    raise InvalidKnowledgeError("clients cannot send soft labels of their private samples")


def check(tensors: Tensors, expected: Expectation) -> None:
    """Raise `InvalidKnowledgeError` unless these are probabilities; of how many samples, only the client knows."""
    if set(tensors) != {"soft_labels"}:
        raise InvalidKnowledgeError(f"private soft labels came as {sorted(tensors)}")
    soft_labels = tensors["soft_labels"]
    if soft_labels.ndim != 2 or soft_labels.shape[1] != expected.num_classes or not soft_labels.is_floating_point():
        raise InvalidKnowledgeError(
            f"private soft labels are {soft_labels.dtype} {list(soft_labels.shape)}, expected numbers of shape "
            f"[any, {expected.num_classes}]"
        )
    off = (soft_labels.sum(1) - 1).abs()
    if (soft_labels < -SIMPLEX_TOLERANCE).any() or (off > SIMPLEX_TOLERANCE).any():
        raise InvalidKnowledgeError("private soft labels are off the simplex")


def stack(tensors: Sequence[Tensors], expected: Sequence[Expectation]) -> Tensors:
    """Refuse, see `express`."""
    raise InvalidKnowledgeError("clients cannot send soft labels of their private samples")


def absorb(
    clients: Sequence[Client],
    states: Sequence[ClientState],
    requests: Sequence[Request],
    settings: ClientSettings,
    fit: Fit,
) -> list[ClientState]:
    """Keep the soft labels, a row for each training sample: they become a term of the next learn."""
    kept = []
    for client, state, request in zip(clients, states, requests, strict=True):
        soft_labels = (request.fused or {})["private_soft_labels"]["soft_labels"]
        if soft_labels.shape != (len(client.data.train), settings.num_classes):
            raise InvalidKnowledgeError("private soft labels do not fit this client's samples")
        received = {"soft_labels": soft_labels.to(settings.dtype)}
        kept.append(replace(state, received={**state.received, "private_soft_labels": received}))
    return kept
