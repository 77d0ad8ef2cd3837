import pytest
import torch

from fedfuse import catalogue
from fedfuse.components import build
from fedfuse.configuration import Component
from fedfuse.models.outputs import Outputs


@pytest.fixture(params=catalogue.names("predictor", catalogue.folders()))
def predictor(request):
    """Every predictor that is shipped, as its file configures it."""
    values = catalogue.read("predictor", request.param, catalogue.folders())
    return build(Component(request.param, values.pop("_target_"), values), "predictor")


def make_outputs(rows=7, dtype=torch.float32):
    random = torch.Generator().manual_seed(0)
    return Outputs(
        10 * torch.randn(rows, 4, generator=random, dtype=dtype), torch.randn(rows, 5, generator=random, dtype=dtype)
    )


def test_every_shipped_predictor_is_tested():
    assert "plain_head" in catalogue.names("predictor", catalogue.folders())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_answers_are_probabilities(predictor, dtype):
    answers = predictor(make_outputs(dtype=dtype))
    assert answers.shape == (7, 4)
    assert answers.dtype == dtype
    assert (answers >= 0).all()
    torch.testing.assert_close(answers.sum(1), torch.ones(7, dtype=dtype), rtol=0, atol=1e-6)


def test_an_answer_does_not_depend_on_the_other_samples(predictor):
    outputs = make_outputs()
    rows = torch.tensor([5, 2])
    torch.testing.assert_close(
        predictor(Outputs(outputs.logits[rows], outputs.features[rows])), predictor(outputs)[rows]
    )


def test_no_sample_has_no_answer(predictor):
    assert predictor(make_outputs(rows=0)).shape == (0, 4)


def test_outputs_are_left_alone(predictor):
    outputs = make_outputs()
    logits, features = outputs.logits.clone(), outputs.features.clone()
    predictor(outputs)
    assert torch.equal(outputs.logits, logits)
    assert torch.equal(outputs.features, features)
