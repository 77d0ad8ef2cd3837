"""The second verb: turn models into knowledge."""

from collections.abc import Sequence

from fedfuse.carriers.carrier import CARRIERS
from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.state import ClientState
from fedfuse.knowledge import Tensors
from fedfuse.messages import Request


def express(
    clients: Sequence[Client],
    states: Sequence[ClientState],
    requests: Sequence[Request],
    settings: ClientSettings,
) -> list[dict[str, Tensors]]:
    """Express every client of a cohort in the carriers that were asked for; all requests ask for the same ones.

    Returns
    -------
    list[dict[str, Tensors]]
        Tensors by carrier, for each client.
    """
    expressed: list[dict[str, Tensors]] = [{} for _ in clients]
    for carrier in requests[0].sends:
        for own, tensors in zip(expressed, CARRIERS[carrier].express(clients, states, requests, settings), strict=True):
            own[carrier] = tensors
    return expressed
