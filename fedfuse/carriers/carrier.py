"""What every kind of knowledge offers, and all kinds by name."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import torch

from fedfuse.carriers import (
    class_logits,
    densities,
    generated,
    head,
    private_features,
    private_soft_labels,
    prototypes,
    relations,
    soft_labels,
    weights,
)
from fedfuse.carriers.expectation import Expectation
from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.fit import Fit
from fedfuse.client.state import ClientState
from fedfuse.knowledge import Knowledge, KnowledgeBatch, Tensors
from fedfuse.memory import given_up
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
    {
        "soft_labels": soft_labels,
        "weights": weights,
        "prototypes": prototypes,
        "class_logits": class_logits,
        "densities": densities,
        "relations": relations,
        "head": head,
        "generated": generated,
        "private_features": private_features,
        "private_soft_labels": private_soft_labels,
    }
)
STACKED = MappingProxyType(
    {
        "soft_labels": soft_labels,
        "prototypes": prototypes,
        "class_logits": class_logits,
        "densities": densities,
        "relations": relations,
        "head": head,
        "private_features": private_features,
    }
)
# What clients only send, and what only comes back to them.
ONLY_SENT = frozenset({"densities", "private_features"})
ONLY_RETURNED = frozenset({"generated", "private_soft_labels"})
# What says something of transfer samples, and is asked for on some of their rows.
ON_TRANSFER_SET = frozenset({"soft_labels", "densities", "relations"})
# What an objective learns from, and what it calls that.
TAUGHT = MappingProxyType(
    {
        "soft_labels": "soft_labels",
        "relations": "relations",
        "prototypes": "prototypes",
        "class_logits": "class_logits",
        "generated": "generated",
        "private_soft_labels": "soft_labels",
    }
)


def stack(knowledge: list[Knowledge], expected: Sequence[Expectation]) -> KnowledgeBatch:
    """Stack the checked knowledge of all clients of a round.

    Parameters
    ----------
    knowledge : list[Knowledge]
        At least one, sorted by client id, all with the same carriers. The list is empty afterwards: soft
        labels that nobody else holds are freed as they are stacked.
    expected : Sequence[Expectation]
        What was expected of each.

    Returns
    -------
    KnowledgeBatch
        What the strategy sees.
    """
    client_ids, round = tuple(own.client_id for own in knowledge), knowledge[0].round
    examples = [own.num_examples for own in knowledge]
    labels = [own.label_counts for own in knowledge]
    sent = {name: [own.carriers[name] for own in knowledge] for name in knowledge[0].carriers}
    knowledge.clear()
    tensors: dict[str, Tensors] = {}
    if "soft_labels" in sent:
        tensors["soft_labels"] = soft_labels.stack(given_up(sent.pop("soft_labels")), expected)
    tensors |= {name: carrier.stack(sent[name], expected) for name, carrier in STACKED.items() if name in sent}
    return KnowledgeBatch(
        client_ids=client_ids,
        round=round,
        tensors=tensors,
        weights=weights.stack(sent["weights"], expected) if "weights" in sent else (),
        num_examples=None if None in examples else torch.tensor(examples, dtype=torch.float64),
        label_counts=None if None in labels else torch.tensor(labels, dtype=torch.float64),
    )
