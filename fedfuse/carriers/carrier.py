"""What every kind of knowledge offers, and all kinds by name."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import torch

from fedfuse.carriers import prototypes, soft_labels, weights
from fedfuse.carriers.expectation import Expectation
from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.fit import Fit
from fedfuse.client.state import ClientState
from fedfuse.knowledge import Knowledge, KnowledgeBatch, Tensors
from fedfuse.messages import Request


class Carrier(Protocol):
    """One kind of knowledge: a module with the functions that make, check and use it, for a cohort of clients."""

    def express(
        self,
        clients: Sequence[Client],
        states: Sequence[ClientState],
        requests: Sequence[Request],
        settings: ClientSettings,
    ) -> list[Tensors]:
        """Make each client's tensors, in the form that travels."""
        ...

    def check(self, tensors: Tensors, expected: Expectation) -> None:
        """Raise `InvalidKnowledgeError` for tensors that a strategy must not see."""
        ...

    def absorb(
        self,
        clients: Sequence[Client],
        states: Sequence[ClientState],
        requests: Sequence[Request],
        settings: ClientSettings,
        fit: Fit,
    ) -> list[ClientState]:
        """Let each client learn from the fused tensors of its request."""
        ...


CARRIERS: Mapping[str, Carrier] = MappingProxyType(
    {"soft_labels": soft_labels, "weights": weights, "prototypes": prototypes}
)


def stack(knowledge: Sequence[Knowledge], expected: Sequence[Expectation]) -> KnowledgeBatch:
    """Stack the checked knowledge of all clients of a round.

    Parameters
    ----------
    knowledge : Sequence[Knowledge]
        At least one, sorted by client id, all with the same carriers.
    expected : Sequence[Expectation]
        What was expected of each.

    Returns
    -------
    KnowledgeBatch
        What the strategy sees.
    """
    sent = knowledge[0].carriers
    tensors = {
        name: carrier.stack([own.carriers[name] for own in knowledge], expected)
        for name, carrier in {"soft_labels": soft_labels, "prototypes": prototypes}.items()
        if name in sent
    }
    cohorts = weights.stack([own.carriers["weights"] for own in knowledge], expected) if "weights" in sent else ()
    counts = [own.num_examples for own in knowledge]
    return KnowledgeBatch(
        client_ids=tuple(own.client_id for own in knowledge),
        round=knowledge[0].round,
        tensors=tensors,
        weights=cohorts,
        num_examples=None if any(count is None for count in counts) else torch.tensor(counts, dtype=torch.float64),
    )
