"""What a client's own labels count beside fused knowledge while it absorbs: a fixed share, or one in closed form."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.predict import predict
from fedfuse.client.state import ClientState
from fedfuse.configuration import CLOSED_FORM
from fedfuse.objectives.closed_form import closed_form_weight

SHARE = "rehearse.share"
# Before anything is known of the two.
FIRST_SHARE = 0.5


def share_of_labels(state: ClientState, settings: ClientSettings) -> float:
    """Return which share of the loss is that of the client's own labels while it absorbs, from 0 to 1."""
    if settings.absorb.rehearse != CLOSED_FORM:
        return float(settings.absorb.rehearse)
    return state.objective_state[SHARE].item() if SHARE in state.objective_state else FIRST_SHARE


def remember_shares(
    clients: Sequence[Client], before: Sequence[ClientState], after: Sequence[ClientState], settings: ClientSettings
) -> list[ClientState]:
    """Let each client find its share for the round after, on its validation samples, and remember it.

    What it learnt from labels is the answer before it absorbed, what it learnt from fused knowledge the answer after;
    of a model with a fused head, its two answers after.
    """
    architecture = clients[0].architecture
    inputs = [client.data.validation.inputs for client in clients]
    then = predict(architecture, [state.parameters for state in before], inputs)
    now = predict(architecture, [state.parameters for state in after], inputs)
    remembered = []
    for client, state, at_first, at_last in zip(clients, after, then, now, strict=True):
        if at_last.fused_logits is None:
            from_labels, from_fused = torch.softmax(at_first.logits, dim=1), torch.softmax(at_last.logits, dim=1)
        else:
            from_labels, from_fused = torch.softmax(at_last.logits, dim=1), torch.softmax(at_last.fused_logits, dim=1)
        weight = closed_form_weight(from_labels, from_fused, client.data.validation.labels)
        share = torch.tensor(min(max(weight, 0.0), 1.0), dtype=settings.dtype)
        remembered.append(replace(state, objective_state={**state.objective_state, SHARE: share}))
    return remembered
