"""The fifth verb, after the server's fuse: learn from the fused knowledge."""

from collections.abc import Sequence
from dataclasses import replace

from fedfuse.carriers.carrier import CARRIERS
from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.fit import Fit
from fedfuse.client.state import ClientState
from fedfuse.messages import Request


def absorb(
    clients: Sequence[Client],
    states: Sequence[ClientState],
    requests: Sequence[Request],
    settings: ClientSettings,
    fit: Fit,
) -> list[ClientState]:
    """Let the clients of a cohort learn from what they received; who received nothing, or nothing new, stays.

    Raises
    ------
    DivergedError
        If a client's weights are no longer finite.
    InvalidKnowledgeError
        If what was received does not fit the client.
    """
    absorbed = list(states)
    waiting = [
        row
        for row, (state, request) in enumerate(zip(states, requests, strict=True))
        if request.fused is not None and request.fused_round > state.absorbed_round
    ]
    # Weights first: loading them would undo what the other carriers teach.
    carriers = sorted(
        {carrier for row in waiting for carrier in (requests[row].fused or {})},
        key=lambda carrier: (carrier != "weights", carrier),
    )
    for carrier in carriers:
        rows = [row for row in waiting if carrier in (requests[row].fused or {})]
        taught = CARRIERS[carrier].absorb(
            [clients[row] for row in rows],
            [absorbed[row] for row in rows],
            [requests[row] for row in rows],
            settings,
            fit,
        )
        for row, state in zip(rows, taught, strict=True):
            absorbed[row] = state
    for row in waiting:
        absorbed[row] = replace(absorbed[row], absorbed_round=requests[row].fused_round)
    return absorbed
