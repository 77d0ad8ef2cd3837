"""After absorb: how well a client answers, on its own data and on everybody's."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedfuse.client.answer import answers
from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.predict import predict
from fedfuse.client.state import ClientState
from fedfuse.data.samples import Samples
from fedfuse.fusion import SMALLEST_PROBABILITY
from fedfuse.models.outputs import Outputs


def evaluate(
    clients: Sequence[Client], states: Sequence[ClientState], settings: ClientSettings
) -> list[dict[str, float]]:
    """Measure every client of a cohort.

    Returns
    -------
    list[dict[str, float]]
        ``personal_accuracy`` and ``personal_loss`` (own test data, personal predictor), ``validation_accuracy`` (own
        validation data, personal predictor: of one that chooses on it, too good) and ``general_accuracy`` (global test
        set, general predictor; absent without such a set). Empty where test metrics may not travel.
    """
    if "test_metrics" not in settings.share_facts:
        return [{} for _ in clients]
    architecture = clients[0].architecture
    parameters = [state.parameters for state in states]

    def outputs_on(samples: list[Samples]) -> list[Outputs]:
        return predict(architecture, parameters, [part.inputs for part in samples])

    tests = [client.data.test for client in clients]
    validations = [client.data.validation for client in clients]
    metrics = []
    for answer, test, on_test, validation, on_validation in zip(
        answers(settings.predictors.personal, clients, states, settings),
        tests,
        outputs_on(tests),
        validations,
        outputs_on(validations),
        strict=True,
    ):
        personal = answer(on_test, test.inputs)
        metrics.append(
            {
                "personal_accuracy": accuracy(personal, test.labels),
                "personal_loss": negative_log_likelihood(personal, test.labels),
                "validation_accuracy": accuracy(answer(on_validation, validation.inputs), validation.labels),
            }
        )
    if settings.global_test is not None:
        everybody = settings.global_test
        general = answers(settings.predictors.general, clients, states, settings)
        for own, answer, outputs in zip(metrics, general, outputs_on([everybody] * len(clients)), strict=True):
            own["general_accuracy"] = accuracy(answer(outputs, everybody.inputs), everybody.labels)
    return metrics


def accuracy(probabilities: Tensor, labels: Tensor) -> float:
    """Share of samples whose most probable class is the label."""
    return (probabilities.argmax(1) == labels).double().mean().item()


def negative_log_likelihood(probabilities: Tensor, labels: Tensor) -> float:
    """Mean negative logarithm of the probability that the label was given."""
    given = probabilities.gather(1, labels.unsqueeze(1)).clamp_min(SMALLEST_PROBABILITY)
    return -torch.log(given).double().mean().item()
