import math

import pytest
import torch

from fedfuse.models.outputs import Outputs
from fedfuse.predictors.nearest_prototype import NearestPrototype
from fedfuse.predictors.predictor import TRAINING_OUTPUTS, Own

# Class 0 is around (1, 0), class 2 at (0, 2); there is no sample of class 1.
FEATURES = torch.tensor([[0.0, 0.0], [0.0, 2.0], [2.0, 0.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 2, 0])
NAN = torch.full((1, 3), math.nan)


def own(features=FEATURES, labels=LABELS, received=None):
    nothing = torch.zeros(0, dtype=torch.int64)
    outputs = Outputs(torch.full((len(features), 3), math.nan), features)
    return Own(3, labels, nothing, outputs=outputs, received=received or {})


def received(mask, prototypes=((9.0, 9.0), (1.0, 2.0), (8.0, 8.0))):
    return {"prototypes": torch.tensor(prototypes, dtype=torch.float64), "mask": torch.tensor(mask)}


def answer_to(features, client, temperature=1.0):
    features = torch.tensor(features, dtype=torch.float64)
    return NearestPrototype(temperature).fit(client)(Outputs(NAN, features), NAN)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 4.0])
def test_answers_fall_with_the_squared_distance_from_the_mean_of_the_class(temperature):
    # From (1, 2) the mean of class 0 is at a squared distance of 4, that of class 2 at 1, over two features.
    near = [math.exp(-4 / 2 / temperature), 0, math.exp(-1 / 2 / temperature)]
    answer = answer_to([[1.0, 2.0]], own(), temperature)[0]
    assert answer.tolist() == pytest.approx([one / sum(near) for one in near], abs=1e-14)


def test_a_class_without_samples_has_the_prototype_that_was_received():
    near = [math.exp(-4 / 2), math.exp(0), math.exp(-1 / 2)]
    answer = answer_to([[1.0, 2.0]], own(received=received([True, True, True])))[0]
    assert answer.tolist() == pytest.approx([one / sum(near) for one in near], abs=1e-14)


def test_a_class_that_nobody_has_gets_probability_0():
    without = answer_to([[1.0, 2.0], [50.0, -50.0]], own())
    assert without[:, 1].tolist() == [0, 0]
    unknown = received([True, False, True], ((9.0, 9.0), (math.nan, math.nan), (8.0, 8.0)))
    assert torch.equal(answer_to([[1.0, 2.0], [50.0, -50.0]], own(received=unknown)), without)
    torch.testing.assert_close(without.sum(1), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-15)


def test_a_client_of_one_class_is_sure_of_it():
    assert answer_to([[7.0, 7.0]], own(FEATURES[:1], LABELS[:1])).tolist() == [[1, 0, 0]]


def test_without_any_prototype_answers_are_uniform():
    answer = answer_to([[1.0, 2.0], [1e3, 0.0]], own(FEATURES[:0], LABELS[:0], received([False] * 3)))
    torch.testing.assert_close(answer, torch.full((2, 3), 1 / 3, dtype=torch.float64), rtol=0, atol=1e-15)


def test_received_prototypes_alone_are_enough():
    answer = answer_to([[1.0, 2.0]], own(FEATURES[:0], LABELS[:0], received([False, True, False])))
    assert answer.tolist() == [[0, 1, 0]]


def test_far_from_everything_answers_stay_finite():
    answer = answer_to([[1e6, 1e6]], own(), temperature=0.01)
    assert answer.isfinite().all()
    assert answer.sum().item() == pytest.approx(1)


def test_many_near_samples_far_from_zero_are_told_apart_in_float32():
    # Differences of 0.1 at 1,000: through matrix products their squares would be lost among those of 1,000.
    centre = torch.full((1, 64), 1000.0)
    features = torch.cat([centre, centre + 0.1]).repeat(40, 1)
    labels = torch.tensor([0, 2]).repeat(40)
    answer = NearestPrototype(0.001).fit(own(features, labels))(Outputs(NAN, features), NAN)
    assert torch.equal(answer.argmax(1), labels)


def test_what_was_received_is_left_alone():
    kept = received([True, True, True])
    before = kept["prototypes"].clone()
    answer_to([[1.0, 2.0]], own(received=kept))
    assert torch.equal(kept["prototypes"], before)


def test_it_needs_the_features_of_training_samples_and_tells_which_classes_there_are():
    assert NearestPrototype().needs == {TRAINING_OUTPUTS}
    assert NearestPrototype().tells_labels


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_another_temperature_is_refused(temperature):
    with pytest.raises(ValueError, match=r"temperature=.* must be positive and finite"):
        NearestPrototype(temperature)
