"""The third verb: make the knowledge safe to send, and write it as it is sent."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

import torch
from torch import Tensor

from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.density import densities_of
from fedfuse.client.state import ClientState
from fedfuse.knowledge import Tensors
from fedfuse.messages import Request
from fedfuse.privacy.chain import with_radii
from fedfuse.privacy.keystream import Keystream
from fedfuse.privacy.protector import Context, Protector
from fedfuse.randomness import numpy_generator

# What is computed from a model alone, and so protected by how the model was trained; and what noise on it protects.
OF_THE_MODEL = frozenset({"soft_labels", "weights", "head", "relations"})
NOISED = frozenset({"soft_labels"})


class UnprotectedError(Exception):
    """A client was asked for what its guarantee does not cover."""


def covered(protectors: Sequence[Protector]) -> AbstractSet[str] | None:
    """Return the carriers that a guarantee covers; nothing where none is claimed."""
    roles = {protector.role for protector in protectors}
    if "mechanism" in roles:
        return NOISED
    return OF_THE_MODEL if "training" in roles else None


def check_request(request: Request, settings: ClientSettings) -> None:
    """Refuse to release more than the guarantee was computed for, whoever asks.

    Raises
    ------
    UnprotectedError
        If a guarantee is claimed, and the request is for carriers or facts that it does not cover, for a round after
        the last, or for more transfer samples than were to be asked for in a round.
    """
    allowed, exposure = covered(settings.protectors), settings.exposure
    if allowed is None:
        return
    assert exposure is not None, "a guarantee is for a run of known size"
    asked = set(request.sends) - allowed
    if asked:
        raise UnprotectedError(f"asked for {', '.join(sorted(asked))}, which no protector covers")
    if set(request.facts) & settings.share_facts:
        raise UnprotectedError(f"asked for {', '.join(request.facts)} beside protected knowledge")
    if request.round > exposure.num_rounds:
        raise UnprotectedError(f"asked in round {request.round} of {exposure.num_rounds}")
    if request.rows is not None and len(request.rows) > exposure.num_rows:
        raise UnprotectedError(f"asked for {len(request.rows)} transfer samples, not {exposure.num_rows} at most")


def begin_answer(state: ClientState, request: Request, settings: ClientSettings) -> ClientState:
    """Check a request, and note which one is answered: draws that back a guarantee belong to this request alone.

    Raises
    ------
    UnprotectedError
        See `check_request`.
    """
    if not settings.protectors:
        return state
    check_request(request, settings)
    return replace(state, privacy=replace(state.privacy, answered=request.digest))


def protect(
    client: Client,
    state: ClientState,
    expressed: Mapping[str, Tensors],
    request: Request,
    settings: ClientSettings,
) -> dict[str, Tensors]:
    """Apply every protector in order, each with streams of its own, and encode soft labels after them.

    Returns
    -------
    dict[str, Tensors]
        The knowledge that may leave the client, in the form that travels.
    """
    protected = dict(expressed)
    for number, (protector, radius) in enumerate(with_radii(settings.protectors)):
        # One that works while the client learns has done its part; and the local-only baseline sends nothing.
        if protector.role == "training" or protector.carrier not in protected:
            continue
        tensors = protected[protector.carrier]
        rows = torch.arange(len(tensors["soft_labels"])) if request.rows is None else request.rows
        received = state.received.get(protector.carrier)
        context = Context(
            rows=rows,
            num_transfer=len(settings.transfer),
            reference=None if received is None or request.rows is None else received["soft_labels"][rows],
            likeness=lambda rows=rows: likeness(client, settings, rows),  # type: ignore[misc]
            radius=radius,
            generator=numpy_generator(settings.seed, f"protect {number}", request.round, client.client_id),
            keystream=Keystream(state.privacy.key, f"protect {number} of {state.privacy.answered}"),
        )
        protected[protector.carrier] = {**tensors, "soft_labels": protector(tensors["soft_labels"], context)}
    if "soft_labels" in protected:
        protected["soft_labels"] = settings.encoding.encode(protected["soft_labels"], len(settings.transfer))
    return protected


def likeness(client: Client, settings: ClientSettings, rows: Tensor) -> Tensor:
    """Compute how much transfer samples are like a client's training data: float64 ``[R]``, in [0, 1].

    It is the share of the client's own samples that its density of the others makes less likely than the transfer
    sample; 0 for a client with fewer than two samples.
    """
    (density,) = densities_of([client], settings)
    if len(density.own) == 0:
        return torch.zeros(len(rows), dtype=torch.float64)
    on_rows = density(settings.transfer.inputs[rows])
    return torch.searchsorted(density.own, on_rows).double() / len(density.own)
