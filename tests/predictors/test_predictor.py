from dataclasses import fields, replace

import pytest
import torch

from fedfuse import catalogue
from fedfuse.components import build
from fedfuse.composition import compose
from fedfuse.configuration import Component, PredictorSettings
from fedfuse.models.outputs import Outputs
from fedfuse.predictors.predictor import DENSITY, FUSED_HEAD, TRAINING_OUTPUTS, VALIDATION_OUTPUTS, Own

ANSWERS = catalogue.names("predictor/answer", catalogue.folders())


@pytest.fixture(params=ANSWERS)
def predictor(request):
    """Every predictor that is shipped, as its file configures it."""
    values = catalogue.read("predictor/answer", request.param, catalogue.folders())
    return build(Component(request.param, values.pop("_target_"), values), "predictor")


def make_outputs(rows=7, dtype=torch.float32, seed=0):
    random = torch.Generator().manual_seed(seed)
    logits, features, fused_logits = (
        10 * torch.randn(rows, width, generator=random, dtype=dtype) for width in (4, 5, 4)
    )
    return Outputs(logits, features, fused_logits)


def make_inputs(rows=7, dtype=torch.float32):
    return torch.randn(rows, 1, 2, 2, generator=torch.Generator().manual_seed(4), dtype=dtype)


def density(inputs):
    """A density like that of samples around zero: float64, whatever the inputs are."""
    return -10 * inputs.double().flatten(1).square().sum(1)


def make_own(predictor, dtype=torch.float32, num_training=6, num_validation=9):
    """What a client without samples of class 2 knows of itself, and no more of its outputs than is needed."""
    random = torch.Generator().manual_seed(1)

    def labels(number):
        return torch.tensor([0, 1, 3])[torch.randint(3, (number,), generator=random)]

    training = make_outputs(num_training, dtype, seed=2) if TRAINING_OUTPUTS in predictor.needs else None
    validation = make_outputs(num_validation, dtype, seed=3) if VALIDATION_OUTPUTS in predictor.needs else None
    own = Own(4, labels(num_training), labels(num_validation), training, validation)
    if DENSITY in predictor.needs:
        known = torch.linspace(-30, 0, num_training, dtype=torch.float64)
        return replace(own, density=density, own_densities=known)
    return own


def test_every_shipped_predictor_is_tested():
    shipped = {"familiar", "fused_head", "nearest_prototype", "plain_head", "prior_corrected", "two_heads"}
    assert shipped <= set(ANSWERS)


def test_needs_are_what_there_is_to_ask_for(predictor):
    assert predictor.needs <= {DENSITY, FUSED_HEAD, TRAINING_OUTPUTS, VALIDATION_OUTPUTS}
    assert predictor.tells_labels in (True, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_validation", [0, 1, 9])
def test_answers_are_probabilities(predictor, dtype, num_validation):
    answer = predictor.fit(make_own(predictor, dtype, num_validation=num_validation))
    answers = answer(make_outputs(dtype=dtype), make_inputs(dtype=dtype))
    assert answers.shape == (7, 4)
    assert answers.dtype == dtype
    assert (answers >= 0).all()
    torch.testing.assert_close(answers.sum(1), torch.ones(7, dtype=dtype), rtol=0, atol=1e-6)


def test_an_answer_does_not_depend_on_the_other_samples(predictor):
    outputs, inputs, rows = make_outputs(), make_inputs(), torch.tensor([5, 2])
    answer = predictor.fit(make_own(predictor))
    some = answer(Outputs(*(tensor[rows] for tensor in outputs)), inputs[rows])
    torch.testing.assert_close(some, answer(outputs, inputs)[rows])


def test_no_sample_has_no_answer(predictor):
    assert predictor.fit(make_own(predictor))(make_outputs(rows=0), make_inputs(rows=0)).shape == (0, 4)


def test_what_it_is_shown_is_left_alone(predictor):
    outputs, inputs, own = make_outputs(), make_inputs(), make_own(predictor)
    seen = [tensor for one in (outputs, own.outputs, own.validation) if one is not None for tensor in one]
    seen += [inputs, own.labels, own.own_densities]
    before = [tensor.clone() for tensor in seen]
    predictor.fit(own)(outputs, inputs)
    assert all(torch.equal(tensor, other) for tensor, other in zip(seen, before, strict=True))


def test_only_a_predictor_that_tells_labels_looks_at_how_often_the_client_has_each_class(predictor):
    own, outputs, inputs = make_own(predictor), make_outputs(), make_inputs()
    other = replace(own, labels=(own.labels + 1) % 4)
    same = torch.equal(predictor.fit(own)(outputs, inputs), predictor.fit(other)(outputs, inputs))
    assert same or predictor.tells_labels


@pytest.mark.parametrize("name", catalogue.names("predictor", catalogue.folders()))
def test_every_shipped_set_has_a_predictor_for_everyone_who_asks_and_shares_no_label_counts(name):
    chosen = compose([f"predictor={name}"]).predictor
    predictors = {role.name: build(getattr(chosen, role.name), "predictor") for role in fields(PredictorSettings)}
    assert set(predictors) == {"share", "personal", "general"}
    assert not predictors["share"].tells_labels
    assert chosen.personal.name == {"fedfuse": "prior_corrected"}.get(name, name)


def test_the_set_of_fedfuse_shares_what_is_familiar_and_tells_owners_alone_of_their_label_mix():
    chosen = compose(["predictor=fedfuse"]).predictor
    assert (chosen.share.name, chosen.personal.name, chosen.general.name) == (
        "familiar",
        "prior_corrected",
        "plain_head",
    )


def test_a_role_is_changed_beside_a_set():
    changed = compose(["predictor=prior_corrected", "predictor.personal={name: prior_corrected, head: fused}"])
    assert changed.predictor.personal.arguments["head"] == "fused"
    other = compose(["predictor=two_heads", "predictor.general=plain_head"]).predictor
    assert (other.share.name, other.personal.name, other.general.name) == ("plain_head", "two_heads", "plain_head")
