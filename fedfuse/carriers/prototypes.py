"""The mean features of each class that a client has; absorbed by pulling towards them in the next learn."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from fedfuse.carriers.expectation import Expectation
from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.fit import Fit
from fedfuse.client.predict import predict
from fedfuse.client.state import ClientState
from fedfuse.knowledge import InvalidKnowledgeError, Tensors
from fedfuse.messages import Request


def express(
    clients: Sequence[Client],
    states: Sequence[ClientState],
    requests: Sequence[Request],
    settings: ClientSettings,
) -> list[Tensors]:
    """Average the features of the training samples by class.

    Returns
    -------
    list[Tensors]
        ``prototypes`` ``[C, D]``, zero for classes that the client lacks, and ``mask`` (bool ``[C]``) of those it has.
        The mask tells the server which classes a client holds.
    """
    samples = [client.data.train for client in clients]
    outputs = predict(
        clients[0].architecture,
        [state.parameters for state in states],
        [own.inputs for own in samples],
    )
    expressed: list[Tensors] = []
    for own, output in zip(samples, outputs, strict=True):
        features = output.features
        counts = torch.bincount(own.labels, minlength=settings.num_classes)
        sums = features.new_zeros(settings.num_classes, features.shape[1]).index_add_(0, own.labels, features)
        prototypes = sums / counts.clamp_min(1).unsqueeze(1).to(sums.dtype)
        expressed.append({"prototypes": prototypes, "mask": counts > 0})
    return expressed


def check(tensors: Tensors, expected: Expectation) -> None:
    """Raise `InvalidKnowledgeError` unless these are prototypes of the right shape and type."""
    if set(tensors) != {"prototypes", "mask"}:
        raise InvalidKnowledgeError(f"prototypes came as {sorted(tensors)}")
    shape = (expected.num_classes, expected.embedding_size)
    if tensors["prototypes"].shape != shape or tensors["mask"].shape != shape[:1]:
        raise InvalidKnowledgeError(
            f"prototypes have shape {list(tensors['prototypes'].shape)}, expected {list(shape)}"
        )
    if not tensors["prototypes"].is_floating_point() or tensors["mask"].dtype != torch.bool:
        raise InvalidKnowledgeError("prototypes have the wrong type")


def stack(tensors: Sequence[Tensors], expected: Sequence[Expectation]) -> Tensors:
    """Stack checked prototypes of N clients: ``prototypes`` ``[N, C, D]`` and ``mask`` ``[N, C]``."""
    return {name: torch.stack([own[name] for own in tensors]) for name in ("prototypes", "mask")}


def absorb(
    clients: Sequence[Client],
    states: Sequence[ClientState],
    requests: Sequence[Request],
    settings: ClientSettings,
    fit: Fit,
) -> list[ClientState]:
    """Keep the fused prototypes: they become a term of the next learn."""
    kept = []
    for client, state, request in zip(clients, states, requests, strict=True):
        tensors = (request.fused or {})["prototypes"]
        shape = (settings.num_classes, client.architecture.embedding_size)
        if tensors["prototypes"].shape != shape or tensors["mask"].shape != shape[:1]:
            raise InvalidKnowledgeError("fused prototypes do not fit this client's features")
        received = {"prototypes": tensors["prototypes"].to(settings.dtype), "mask": tensors["mask"]}
        kept.append(replace(state, received={**state.received, "prototypes": received}))
    return kept
