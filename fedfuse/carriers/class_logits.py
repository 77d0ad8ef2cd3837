"""The mean logits of each class that a client has; absorbed by answering like them in the next learn.

The mask tells the server which classes a client holds, and the logits how it confuses them; the mean of a class with
one sample is that sample's.
"""

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
    """Average the logits of the training samples by class.

    Returns
    -------
    list[Tensors]
        ``class_logits`` ``[C, C]``, a row for each class of the samples, zero for classes that the client lacks, and
        ``mask`` (bool ``[C]``) of those it has.
    """
    samples = [client.data.train for client in clients]
    outputs = predict(
        clients[0].architecture,
        [state.parameters for state in states],
        [own.inputs for own in samples],
    )
    expressed: list[Tensors] = []
    for own, output in zip(samples, outputs, strict=True):
        logits = output.logits
        counts = torch.bincount(own.labels, minlength=settings.num_classes)
        sums = logits.new_zeros(settings.num_classes, settings.num_classes).index_add_(0, own.labels, logits)
        expressed.append(
            {"class_logits": sums / counts.clamp_min(1).unsqueeze(1).to(sums.dtype), "mask": counts > 0},
        )
    return expressed


def check(tensors: Tensors, expected: Expectation) -> None:
    """Raise `InvalidKnowledgeError` unless these are class logits of the right shape and type."""
    if set(tensors) != {"class_logits", "mask"}:
        raise InvalidKnowledgeError(f"class logits came as {sorted(tensors)}")
    shape = (expected.num_classes, expected.num_classes)
    if tensors["class_logits"].shape != shape or tensors["mask"].shape != shape[:1]:
        raise InvalidKnowledgeError(
            f"class logits have shape {list(tensors['class_logits'].shape)}, expected {list(shape)}"
        )
    if not tensors["class_logits"].is_floating_point() or tensors["mask"].dtype != torch.bool:
        raise InvalidKnowledgeError("class logits have the wrong type")


def stack(tensors: Sequence[Tensors], expected: Sequence[Expectation]) -> Tensors:
    """Stack checked class logits of N clients: ``class_logits`` ``[N, C, C]`` and ``mask`` ``[N, C]``."""
    return {name: torch.stack([own[name] for own in tensors]) for name in ("class_logits", "mask")}


def absorb(
    clients: Sequence[Client],
    states: Sequence[ClientState],
    requests: Sequence[Request],
    settings: ClientSettings,
    fit: Fit,
) -> list[ClientState]:
    """Keep the fused class logits: they become a term of the next learn."""
    kept = []
    for state, request in zip(states, requests, strict=True):
        tensors = (request.fused or {})["class_logits"]
        shape = (settings.num_classes, settings.num_classes)
        if tensors["class_logits"].shape != shape or tensors["mask"].shape != shape[:1]:
            raise InvalidKnowledgeError("fused class logits do not fit this client's classes")
        received = {"class_logits": tensors["class_logits"].to(settings.dtype), "mask": tensors["mask"]}
        kept.append(replace(state, received={**state.received, "class_logits": received}))
    return kept
