import math
from dataclasses import dataclass, replace

import pytest
import torch

from fedfuse.client.answer import answers
from fedfuse.client.client import Predictors, first_state
from fedfuse.client.evaluate import accuracy, evaluate, negative_log_likelihood
from fedfuse.client.predict import predict
from fedfuse.predictors.plain_head import PlainHead
from fedfuse.predictors.prior_corrected import PriorCorrected


@dataclass(frozen=True)
class Always:
    """A predictor that is sure of one class."""

    target: int
    needs = frozenset()
    tells_labels = False

    def fit(self, own):
        return lambda outputs, inputs: torch.nn.functional.one_hot(
            torch.full((len(outputs.logits),), self.target), own.num_classes
        ).to(outputs.logits.dtype)


@dataclass(frozen=True)
class Brightest:
    """A predictor that looks at nothing but the samples: the brightest column is the class."""

    needs = frozenset()
    tells_labels = False

    def fit(self, own):
        return lambda outputs, inputs: torch.softmax(inputs.mean((1, 2))[:, : own.num_classes], 1)


def share_of(samples, label):
    return (samples.labels == label).double().mean().item()


@pytest.fixture
def cohort(make_clients, make_settings):
    clients, settings = make_clients(("small",)), make_settings()
    return clients, [first_state(client, settings) for client in clients], settings


def test_accuracy_is_the_share_of_samples_whose_likeliest_class_is_the_label():
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.4, 0.6, 0.0], [0.9, 0.1, 0.0]])
    assert accuracy(probabilities, torch.tensor([0, 2, 0, 1])) == 0.5
    assert accuracy(probabilities, torch.tensor([0, 2, 1, 0])) == 1
    assert accuracy(probabilities[:3], torch.tensor([1, 2, 2])) == pytest.approx(1 / 3, abs=1e-15)


def test_loss_is_the_mean_negative_logarithm_of_the_probability_given_to_the_label():
    probabilities = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]], dtype=torch.float64)
    expected = -(math.log(0.5) + math.log(0.125)) / 2
    assert negative_log_likelihood(probabilities, torch.tensor([0, 1])) == pytest.approx(expected, abs=1e-15)


def test_a_label_that_got_no_probability_costs_what_the_smallest_probability_costs():
    loss = negative_log_likelihood(torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([1]))
    assert loss == pytest.approx(-math.log(1e-8))


def test_every_client_is_measured_on_its_own_data_and_on_everybodys(cohort):
    clients, states, settings = cohort
    metrics = evaluate(clients, states, settings)
    for client, state, own in zip(clients, states, metrics, strict=True):
        model = client.architecture.module().double().eval()
        model.load_state_dict(state.parameters)

        def answers(samples, model=model):
            return torch.softmax(model(samples.inputs).logits, 1)

        test, validation, everybody = client.data.test, client.data.validation, settings.global_test
        assert own == {
            "personal_accuracy": pytest.approx((answers(test).argmax(1) == test.labels).double().mean().item()),
            "personal_loss": pytest.approx(torch.nn.functional.nll_loss(answers(test).log(), test.labels).item()),
            "validation_accuracy": pytest.approx(
                (answers(validation).argmax(1) == validation.labels).double().mean().item()
            ),
            "general_accuracy": pytest.approx(
                (answers(everybody).argmax(1) == everybody.labels).double().mean().item()
            ),
        }


def test_owners_use_the_personal_predictor_and_everybody_the_general_one(cohort):
    clients, states, settings = cohort
    settings = replace(settings, predictors=Predictors(share=PlainHead(), personal=Always(1), general=Always(2)))
    for client, own in zip(clients, evaluate(clients, states, settings), strict=True):
        assert own["personal_accuracy"] == share_of(client.data.test, 1)
        assert own["personal_loss"] == pytest.approx(-math.log(1e-8) * (1 - share_of(client.data.test, 1)))
        assert own["validation_accuracy"] == share_of(client.data.validation, 1)
        assert own["general_accuracy"] == share_of(settings.global_test, 2)


def test_what_a_predictor_finds_on_a_clients_own_data_is_used_for_this_client(cohort):
    clients, states, settings = cohort
    # The validation labels decide between the model's answer and the client's own prior.
    corrected = PriorCorrected()
    settings = replace(settings, predictors=Predictors(share=PlainHead(), personal=corrected, general=corrected))
    fitted = answers(corrected, clients, states, settings)
    parts = [[client.data.test, client.data.validation, settings.global_test] for client in clients]
    for client, state, answer, samples, own in zip(
        clients, states, fitted, parts, evaluate(clients, states, settings), strict=True
    ):
        on_test, on_validation, on_global = (
            answer(predict(client.architecture, [state.parameters], [part.inputs])[0], part.inputs) for part in samples
        )
        assert own == {
            "personal_accuracy": accuracy(on_test, samples[0].labels),
            "personal_loss": negative_log_likelihood(on_test, samples[0].labels),
            "validation_accuracy": accuracy(on_validation, samples[1].labels),
            "general_accuracy": accuracy(on_global, samples[2].labels),
        }


def test_predictors_are_shown_the_samples_that_they_are_measured_on(cohort):
    clients, states, settings = cohort
    settings = replace(settings, predictors=Predictors(share=PlainHead(), personal=Brightest(), general=Brightest()))

    def accuracy_on(samples):
        return (samples.inputs.mean((1, 2))[:, :3].argmax(1) == samples.labels).double().mean().item()

    assert accuracy_on(settings.global_test) > 0.8  # of as many as have their column bright
    for client, own in zip(clients, evaluate(clients, states, settings), strict=True):
        assert own["personal_accuracy"] == accuracy_on(client.data.test)
        assert own["validation_accuracy"] == accuracy_on(client.data.validation)
        assert own["general_accuracy"] == accuracy_on(settings.global_test)


def test_without_a_global_test_set_there_is_no_general_accuracy(cohort):
    clients, states, settings = cohort
    with_global = evaluate(clients, states, settings)
    without = evaluate(clients, states, replace(settings, global_test=None))
    for own, other in zip(with_global, without, strict=True):
        del own["general_accuracy"]
        assert own == other


def test_nothing_is_measured_where_test_metrics_may_not_travel(cohort):
    clients, states, settings = cohort
    settings = replace(settings, share_facts=frozenset({"num_examples"}))
    assert evaluate(clients, states, settings) == [{}] * len(clients)
