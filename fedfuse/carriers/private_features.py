"""Features, logits and labels of every private training sample; for fusion only, never absorbed.

LEAKS: nothing that a client could send gives away more, but its samples themselves. It travels only where the strategy
needs the fact ``private_labels`` and the configuration allows it.
"""

from collections.abc import Sequence

import torch

from fedfuse.carriers.expectation import Expectation
from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.fit import Fit
from fedfuse.client.predict import predict
from fedfuse.client.state import ClientState
from fedfuse.knowledge import InvalidKnowledgeError, Tensors
from fedfuse.messages import Request

FACT = "private_labels"
NAMES = ("features", "logits", "labels")


def express(
    clients: Sequence[Client],
    states: Sequence[ClientState],
    requests: Sequence[Request],
    settings: ClientSettings,
) -> list[Tensors]:
    """Compute features and logits of the training samples, and add their labels.

    Returns
    -------
    list[Tensors]
        ``features`` ``[n, D]``, ``logits`` ``[n, C]`` and ``labels`` (int64 ``[n]``), in the order of the samples.

    Raises
    ------
    InvalidKnowledgeError
        If the strategy does not declare that it needs the labels, or the configuration does not allow it.
    """
    if not all(FACT in settings.share_facts.intersection(request.facts) for request in requests):
        raise InvalidKnowledgeError(f"private features were asked for, but {FACT} may not be told")
    samples = [client.data.train for client in clients]
    outputs = predict(
        clients[0].architecture,
        [state.parameters for state in states],
        [own.inputs for own in samples],
    )
    return [
        {"features": output.features, "logits": output.logits, "labels": own.labels}
        for own, output in zip(samples, outputs, strict=True)
    ]


def check(tensors: Tensors, expected: Expectation) -> None:
    """Raise `InvalidKnowledgeError` unless these are features, logits and labels of equally many samples."""
    if set(tensors) != set(NAMES):
        raise InvalidKnowledgeError(f"private features came as {sorted(tensors)}")
    number = tensors["labels"].shape[0] if tensors["labels"].ndim else 0
    shapes = {"features": (number, expected.embedding_size), "logits": (number, expected.num_classes)}
    for name, shape in {**shapes, "labels": (number,)}.items():
        if tensors[name].shape != shape:
            raise InvalidKnowledgeError(
                f"private {name} have shape {list(tensors[name].shape)}, expected {list(shape)}"
            )
    if not all(tensors[name].dtype in (torch.float32, torch.float64) for name in shapes):
        raise InvalidKnowledgeError("private features have the wrong type")
    labels = tensors["labels"]
    if labels.dtype != torch.int64 or not ((labels >= 0) & (labels < expected.num_classes)).all():
        raise InvalidKnowledgeError("private labels are of no class")


def stack(tensors: Sequence[Tensors], expected: Sequence[Expectation]) -> Tensors:
    """Put the checked samples of N clients one after another, because each has another number of them.

    Returns
    -------
    Tensors
        ``features`` ``[S, D]``, ``logits`` ``[S, C]``, ``labels`` ``[S]``, and ``owners`` (int64 ``[S]``): which of the
        N clients each sample belongs to.
    """
    numbers = torch.tensor([len(own["labels"]) for own in tensors])
    stacked = {name: torch.cat([own[name] for own in tensors]) for name in NAMES}
    return {**stacked, "owners": torch.arange(len(tensors)).repeat_interleave(numbers)}


def absorb(
    clients: Sequence[Client],
    states: Sequence[ClientState],
    requests: Sequence[Request],
    settings: ClientSettings,
    fit: Fit,
) -> list[ClientState]:
    """Refuse: nobody teaches a client the samples of others."""
    raise InvalidKnowledgeError("private features cannot be absorbed")
