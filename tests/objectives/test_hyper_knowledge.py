import math

import pytest
import torch

from fedfuse.models.outputs import Outputs
from fedfuse.objectives.cross_entropy import CrossEntropy
from fedfuse.objectives.hyper_knowledge import HyperKnowledge
from fedfuse.objectives.objective import HeadObjective


def batch(labels, known=(True, True, False)):
    known = torch.tensor(known)
    return {
        "labels": torch.tensor(labels),
        "prototypes": torch.tensor([[0.0, 0.0], [1.0, 1.0], [9.0, 9.0]]),
        "prototype_mask": known,
        "class_logits": torch.tensor([[0.0, 0.0, 0.0], [math.log(2), 0.0, 0.0], [9.0, 9.0, 0.0]]),
        "class_logits_mask": known,
    }


def test_features_are_pulled_by_their_distance_not_its_square():
    features = torch.tensor([[3.0, 4.0], [1.0, 3.0], [0.0, 0.0]])
    outputs = Outputs(torch.zeros(3, 3), features)
    losses, state = HyperKnowledge(feature_weight=0.5)(outputs, batch([0, 1, 2]), torch.ones(3, dtype=torch.bool), {})
    rounded = [0.5 * (math.hypot(distance, 1e-3) - 1e-3) for distance in (5, 2)]
    assert losses.tolist() == pytest.approx([*rounded, 0.0])
    assert rounded == pytest.approx([2.5, 1.0], abs=1e-3)
    assert state == {}


def test_the_head_answers_prototypes_like_the_mean_logits_at_the_temperature():
    objective = HyperKnowledge(weight=2.0, temperature=0.5).at_head
    logits = torch.tensor([[math.log(2), 0.0, 0.0], [math.log(2), 0.0, 0.0], [0.0, 0.0, 0.0]])
    losses, state = objective(Outputs(logits, logits), batch([0, 1, 2]), torch.ones(3, dtype=torch.bool), {})
    # At temperature 1/2 the answer is (4, 1, 1) / 6, a third more and twice a sixth less than uniform.
    assert losses.tolist() == pytest.approx([2 * math.sqrt(1 / 9 + 2 / 36), 0.0, 0.0], abs=2e-3)
    assert state == {}


@pytest.mark.parametrize("at_head", [False, True])
def test_where_nothing_is_left_to_learn_the_gradient_is_a_number(at_head):
    objective, own = HyperKnowledge(), batch([0, 1])
    logits = own["class_logits"][:2].clone().requires_grad_()
    features = own["prototypes"][:2].clone().requires_grad_()
    loss = (objective.at_head if at_head else objective)(Outputs(logits, features), own, torch.ones(2).bool(), {})[0]
    loss.sum().backward()
    assert (features.grad if not at_head else logits.grad).tolist() == [[0.0] * (3 if at_head else 2)] * 2


def test_a_difference_by_rounding_pulls_at_nothing():
    features = torch.tensor([[1e-13, 0.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    own = batch([0, 0])
    own["prototypes"] = own["prototypes"].double()
    losses, _ = HyperKnowledge(feature_weight=1.0)(Outputs(features, features), own, torch.ones(2).bool(), {})
    losses.sum().backward()
    assert features.grad[0].norm() < 1e-9
    assert features.grad[1].tolist() == pytest.approx([0.6, 0.8], abs=1e-6)


def test_it_is_an_objective_with_a_part_at_the_head():
    objective = HyperKnowledge()
    assert isinstance(objective, HeadObjective)
    assert not isinstance(CrossEntropy(), HeadObjective)
    assert objective.needs == {"labels", "prototypes", "class_logits"}
    assert (objective.at_head.weight, objective.at_head.temperature) == (objective.weight, objective.temperature)
    assert objective.initial_state() == objective.at_head.initial_state() == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": -1.0}, "weight=-1.0 must be finite and not negative"),
        ({"feature_weight": math.inf}, "feature_weight=inf must be finite and not negative"),
        ({"temperature": 0.0}, "temperature=0.0 must be positive and finite"),
        ({"temperature": math.nan}, "temperature=nan must be positive and finite"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        HyperKnowledge(**arguments)
