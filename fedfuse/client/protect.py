"""The third verb: make the knowledge safe to send, and write it as it is sent."""

from collections.abc import Mapping

from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.state import ClientState
from fedfuse.knowledge import Tensors
from fedfuse.messages import Request
from fedfuse.randomness import numpy_generator


def protect(
    client: Client,
    state: ClientState,
    expressed: Mapping[str, Tensors],
    request: Request,
    settings: ClientSettings,
) -> dict[str, Tensors]:
    """Apply every protector in order, each with a stream of noise of its own, and encode soft labels after them.

    Returns
    -------
    dict[str, Tensors]
        The knowledge that may leave the client, in the form that travels.
    """
    protected = dict(expressed)
    for number, protector in enumerate(settings.protectors):
        if protector.carrier not in protected:  # the local-only baseline sends nothing
            continue
        tensors = protected[protector.carrier]
        received = state.received.get(protector.carrier)
        reference = None
        if received is not None and request.rows is not None:
            reference = received["soft_labels"][request.rows]
        purpose = f"protect {number}"
        generator = numpy_generator(settings.seed, purpose, request.round, client.client_id)
        protected[protector.carrier] = {
            **tensors,
            "soft_labels": protector(tensors["soft_labels"], reference, generator),
        }
    if "soft_labels" in protected:
        protected["soft_labels"] = settings.encoding.encode(protected["soft_labels"], len(settings.transfer))
    return protected
