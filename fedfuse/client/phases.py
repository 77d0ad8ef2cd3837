"""The client's side of a round, for many clients of one architecture at once: describe, share, absorb.

A Flower ClientApp calls these with one client; the local grid calls them with a cohort.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fedfuse.client.absorb import absorb
from fedfuse.client.client import Client, ClientSettings, first_state
from fedfuse.client.evaluate import evaluate
from fedfuse.client.express import express
from fedfuse.client.fit import Fit
from fedfuse.client.learn import learn
from fedfuse.client.protect import begin_answer, protect
from fedfuse.client.state import SHARED, ClientState, Generation, StateStore
from fedfuse.knowledge import Knowledge
from fedfuse.messages import Description, Reply, Request
from fedfuse.privacy.chain import promises
from fedfuse.stopwatch import Stopwatch


@dataclass(frozen=True)
class Answer:
    """What a client has become in a phase, and what it answers."""

    state: ClientState
    reply: Reply


def describe(client: Client, settings: ClientSettings) -> Description:
    """Say who a client is."""
    return Description(
        client_id=client.client_id,
        architecture=client.architecture.signature,
        embedding_size=client.architecture.embedding_size,
        transfer_digest=settings.transfer.digest,
        class_names=settings.class_names,
    )


class Phase(Protocol):
    """What `share` and `absorb_and_evaluate` have in common."""

    def __call__(
        self,
        clients: Sequence[Client],
        states: Sequence[ClientState],
        requests: Sequence[Request],
        settings: ClientSettings,
        fit: Fit,
        stopwatch: Stopwatch,
    ) -> list[Answer]:
        """Work for a cohort."""
        ...


class MissingStateError(Exception):
    """A client was asked to absorb in a round in which it did not share, or the state to go on from is lost."""


class RepeatedRequestError(Exception):
    """A client was asked something else for a round that it has answered already; every answer spends privacy."""


def start_state(
    store: StateStore, client: Client, generation: Generation, request: Request, settings: ClientSettings
) -> ClientState:
    """Find the state that a client starts a phase from.

    Parameters
    ----------
    store : StateStore
        Where the client's states are kept.
    client : Client
        The client.
    generation : Generation
        What the phase will write: share starts from the newest state before it, absorb from the share of its round.
    request : Request
        What is asked.
    settings : ClientSettings
        How every client works.

    Raises
    ------
    MissingStateError
        If there is nothing to absorb into, or the store holds later states only: beginning afresh would lose them.
    RepeatedRequestError
        If a guarantee is claimed, and the client has answered another request for this round, or a later one.
    """
    if generation.phase == SHARED:
        if promises(settings.protectors):
            _check_not_repeated(store, client, generation, request)
        state = store.load_before(client.client_id, generation)
        newest = store.newest(client.client_id)
        if state is None and newest is not None and newest > generation:
            raise MissingStateError(
                f"client {client.client_id} is at {newest}, and what it was before {generation} is not kept"
            )
        return state or first_state(client, settings)
    state = store.load(client.client_id, Generation(generation.round, SHARED))
    if state is None:
        raise MissingStateError(f"client {client.client_id} did not share in round {generation.round}")
    return state


def _check_not_repeated(store: StateStore, client: Client, generation: Generation, request: Request) -> None:
    newest, answered = store.newest(client.client_id), store.load(client.client_id, generation)
    if answered is None and (newest is None or newest < generation):
        return
    if answered is None or answered.privacy.answered != request.digest:
        raise RepeatedRequestError(f"client {client.client_id} has answered round {generation.round} already")


def share(
    clients: Sequence[Client],
    states: Sequence[ClientState],
    requests: Sequence[Request],
    settings: ClientSettings,
    fit: Fit,
    stopwatch: Stopwatch,
) -> list[Answer]:
    """Catch up with fused knowledge that waits, learn, express and protect.

    Parameters
    ----------
    clients, states, requests : Sequence
        A cohort: clients of one architecture, with their states and what is asked of each.
    settings : ClientSettings
        How every client works.
    fit : Fit
        The runner that trains.
    stopwatch : Stopwatch
        Times the verbs; each client's reply reports an equal part.

    Returns
    -------
    list[Answer]
        In the order of the clients.
    """
    states = [begin_answer(state, request, settings) for state, request in zip(states, requests, strict=True)]
    with stopwatch.verb("absorb"):
        states = absorb(clients, states, requests, settings, fit)
    with stopwatch.verb("learn"):
        states = learn(clients, states, requests[0].round, settings, fit)
    with stopwatch.verb("express"):
        expressed = express(clients, states, requests, settings)
    with stopwatch.verb("protect"):
        protected = [
            protect(client, state, own, request, settings)
            for client, state, own, request in zip(clients, states, expressed, requests, strict=True)
        ]
    seconds = _seconds(stopwatch, clients, settings)
    answers = []
    for client, state, own, request in zip(clients, states, protected, requests, strict=True):
        told = settings.share_facts.intersection(request.facts)
        labels = client.data.train.labels
        knowledge = Knowledge(
            client_id=client.client_id,
            round=request.round,
            carriers=own,
            num_examples=len(labels) if "num_examples" in told else None,
            label_counts=_count(labels, settings.num_classes) if "label_counts" in told else None,
            protection=settings.protection if own else "",
        )
        reply = Reply(client.client_id, request.round, settings.transfer.digest, knowledge=knowledge, seconds=seconds)
        answers.append(Answer(state, reply))
    return answers


def absorb_and_evaluate(
    clients: Sequence[Client],
    states: Sequence[ClientState],
    requests: Sequence[Request],
    settings: ClientSettings,
    fit: Fit,
    stopwatch: Stopwatch,
) -> list[Answer]:
    """Absorb this round's fused knowledge and evaluate. For parameters and result see `share`."""
    with stopwatch.verb("absorb"):
        states = absorb(clients, states, requests, settings, fit)
    with stopwatch.verb("evaluate"):
        metrics = evaluate(clients, states, settings)
    seconds = _seconds(stopwatch, clients, settings)
    return [
        Answer(
            state,
            Reply(client.client_id, request.round, settings.transfer.digest, metrics=own, seconds=seconds),
        )
        for client, state, request, own in zip(clients, states, requests, metrics, strict=True)
    ]


def _seconds(stopwatch: Stopwatch, clients: Sequence[Client], settings: ClientSettings) -> dict[str, float]:
    if promises(settings.protectors):
        return {}  # how long a client learns tells how much it has
    return {verb: total / len(clients) for verb, total in stopwatch.seconds.items()}


def _count(labels: Tensor, num_classes: int) -> tuple[int, ...]:
    return tuple(torch.bincount(labels, minlength=num_classes).tolist())
