"""How each client of a cohort answers: its predictor, after a look at what the client knows of itself."""

from collections.abc import Sequence

import torch

from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.density import Density, densities_of
from fedfuse.client.predict import predict
from fedfuse.client.state import ClientState
from fedfuse.data.samples import Samples
from fedfuse.models.outputs import Outputs
from fedfuse.predictors.plain_head import PlainHead
from fedfuse.predictors.predictor import (
    DENSITY,
    FUSED_HEAD,
    TRAINING_OUTPUTS,
    VALIDATION_OUTPUTS,
    Answer,
    Own,
    Predictor,
)

# The round of what a strategy sends before the first one, with which no second head learns. The same as in
# `fedfuse.waiting`, which cannot be imported here: it needs the carriers, and they need this file.
INITIAL = 0


def answers(
    predictor: Predictor, clients: Sequence[Client], states: Sequence[ClientState], settings: ClientSettings
) -> list[Answer]:
    """Fit a predictor for every client of a cohort.

    Where the predictor asks a second head, a client that has absorbed nothing yet answers with the plain head: only
    fused knowledge trains the second one.

    Returns
    -------
    list[Answer]
        For each client a function from its model's outputs, and the samples, to probabilities ``[B, C]``.
    """

    def outputs_on(need: str, samples: list[Samples]) -> Sequence[Outputs | None]:
        if need not in predictor.needs:
            return [None] * len(clients)
        parameters = [state.parameters for state in states]
        return predict(clients[0].architecture, parameters, [own.inputs for own in samples])

    densities: Sequence[Density | None] = [None] * len(clients)
    if DENSITY in predictor.needs:
        densities = densities_of(clients, settings)
    training = outputs_on(TRAINING_OUTPUTS, [client.data.train for client in clients])
    validation = outputs_on(VALIDATION_OUTPUTS, [client.data.validation for client in clients])
    return [
        (predictor if _can(predictor, state) else PlainHead()).fit(
            Own(
                num_classes=settings.num_classes,
                labels=client.data.train.labels,
                validation_labels=client.data.validation.labels,
                outputs=on_training,
                validation=on_validation,
                density=density,
                own_densities=torch.empty(0) if density is None else density.own,
                received=state.received.get("prototypes", {}),
            )
        )
        for client, state, on_training, on_validation, density in zip(
            clients, states, training, validation, densities, strict=True
        )
    ]


def _can(predictor: Predictor, state: ClientState) -> bool:
    """Say whether a client can answer so: a second head that has learnt nothing yet has nothing to say."""
    return FUSED_HEAD not in predictor.needs or state.absorbed_round > INITIAL
