from dataclasses import dataclass, field, replace

import pytest
import torch

from fedfuse import waiting
from fedfuse.client import answer as answer_module
from fedfuse.client.answer import answers
from fedfuse.client.client import first_state
from fedfuse.client.density import densities_of
from fedfuse.client.predict import predict
from fedfuse.models.outputs import Outputs
from fedfuse.predictors.predictor import DENSITY, FUSED_HEAD, TRAINING_OUTPUTS, VALIDATION_OUTPUTS


@dataclass(frozen=True)
class Noting:
    """A predictor that notes what it is shown, and answers with how many clients were there before."""

    needs: frozenset = frozenset()
    tells_labels: bool = False
    seen: list = field(default_factory=list)

    def fit(self, own):
        number = len(self.seen)
        self.seen.append(own)
        return lambda outputs, inputs: outputs.logits + inputs + number


@pytest.fixture
def cohort(make_clients, make_settings):
    clients, settings = make_clients(("small",)), make_settings()
    return clients, [first_state(client, settings) for client in clients], settings


def test_each_client_answers_after_a_look_at_its_own_labels(cohort):
    clients, states, settings = cohort
    predictor = Noting()
    fitted = answers(predictor, clients, states, settings)
    outputs, inputs = Outputs(torch.zeros(1), torch.zeros(1)), torch.ones(1)
    assert [answer(outputs, inputs).item() for answer in fitted] == [1, 2, 3, 4, 5]
    for client, own in zip(clients, predictor.seen, strict=True):
        assert own.num_classes == 3
        assert own.labels is client.data.train.labels
        assert own.validation_labels is client.data.validation.labels
        assert own.received == {}


@pytest.mark.parametrize("need", [TRAINING_OUTPUTS, VALIDATION_OUTPUTS])
def test_it_is_shown_what_its_own_model_makes_of_the_samples_that_it_needs(cohort, need):
    clients, states, settings = cohort
    predictor = Noting(frozenset({need}))
    answers(predictor, clients, states, settings)
    for client, state, own in zip(clients, states, predictor.seen, strict=True):
        shown, hidden = own.outputs, own.validation
        samples = client.data.train
        if need == VALIDATION_OUTPUTS:
            shown, hidden, samples = hidden, shown, client.data.validation
        expected = predict(client.architecture, [state.parameters], [samples.inputs])[0]
        assert torch.equal(shown.logits, expected.logits)
        assert torch.equal(shown.features, expected.features)
        assert hidden is None


@pytest.mark.parametrize("needs", [frozenset(), frozenset({FUSED_HEAD})])
def test_no_model_is_run_and_no_density_estimated_where_nothing_of_them_is_needed(cohort, monkeypatch, needs):
    clients, states, settings = cohort
    monkeypatch.setattr(answer_module, "predict", None)
    monkeypatch.setattr(answer_module, "densities_of", None)
    predictor = Noting(needs)
    answers(predictor, clients, [replace(state, absorbed_round=1) for state in states], settings)
    assert [(own.outputs, own.validation, own.density) for own in predictor.seen] == [(None, None, None)] * 5
    assert [len(own.own_densities) for own in predictor.seen] == [0] * 5


def test_it_is_shown_the_density_of_the_clients_own_data_where_it_needs_it(cohort, monkeypatch):
    clients, states, settings = cohort
    monkeypatch.setattr(answer_module, "predict", None)
    predictor = Noting(frozenset({DENSITY}))
    answers(predictor, clients, states, settings)
    for own, density in zip(predictor.seen, densities_of(clients, settings), strict=True):
        assert own.density is density
        assert own.own_densities is density.own
    assert [len(own.own_densities) for own in predictor.seen] == [0, 5, 16, 17, 40]


def test_who_has_absorbed_nothing_yet_answers_with_the_plain_head_where_a_second_one_is_needed(cohort):
    clients, states, settings = cohort
    rounds = [waiting.NEVER, waiting.INITIAL, 1, waiting.NEVER, 7]
    states = [replace(state, absorbed_round=round) for state, round in zip(states, rounds, strict=True)]
    predictor = Noting(frozenset({FUSED_HEAD}))
    fitted = answers(predictor, clients, states, settings)
    assert [own.labels for own in predictor.seen] == [clients[2].data.train.labels, clients[4].data.train.labels]
    logits, inputs = torch.tensor([[0.0, 3.0]]).log1p(), torch.ones(1, 1)
    told = [answer(Outputs(logits, logits, -logits), inputs) for answer in fitted]
    plain = torch.tensor([[0.2, 0.8]])
    for row in (0, 1, 3):
        torch.testing.assert_close(told[row], plain)
    assert torch.equal(told[2], logits + 1)
    assert torch.equal(told[4], logits + 2)


def test_who_has_absorbed_nothing_yet_answers_in_any_way_that_needs_no_second_head(cohort):
    clients, states, settings = cohort
    predictor = Noting(frozenset({TRAINING_OUTPUTS, VALIDATION_OUTPUTS, DENSITY}))
    answers(predictor, clients, states, settings)
    assert len(predictor.seen) == 5


def test_what_was_there_before_the_first_round_has_the_same_round_as_on_the_server():
    assert answer_module.INITIAL == waiting.INITIAL


def test_it_is_shown_the_prototypes_that_the_client_received_last(cohort):
    clients, states, settings = cohort
    prototypes = {"prototypes": torch.ones(3, 5), "mask": torch.tensor([True, False, True])}
    others = {"soft_labels": {"soft_labels": torch.ones(1, 3)}}
    states[1] = replace(states[1], received={**others, "prototypes": prototypes})
    states[2] = replace(states[2], received=others)
    predictor = Noting()
    answers(predictor, clients, states, settings)
    assert [own.received for own in predictor.seen] == [{}, prototypes, {}, {}, {}]
