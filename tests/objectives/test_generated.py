import math

import pytest
import torch
from torch.nn import functional

from fedfuse.models.outputs import Outputs
from fedfuse.objectives.generated import Generated
from fedfuse.objectives.objective import HeadObjective

MASK = torch.tensor([True, True])


def test_it_is_the_weighted_cross_entropy_of_each_generated_sample():
    logits, labels = torch.tensor([[0.0, math.log(3)], [2.0, 2.0]]), torch.tensor([0, 1])
    losses, state = Generated(weight=0.5)(Outputs(logits, logits), {"labels": labels}, MASK, {})
    assert losses.tolist() == pytest.approx([0.5 * math.log(4), 0.5 * math.log(2)])
    assert state == {}
    plain, _ = Generated()(Outputs(logits, logits), {"labels": labels}, MASK, {})
    assert torch.equal(plain, functional.cross_entropy(logits, labels, reduction="none"))


def test_it_judges_the_head_and_nothing_else():
    objective = Generated(0.5)
    assert isinstance(objective, HeadObjective)
    assert objective.at_head is objective
    assert objective.needs == {"labels", "generated"}


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_a_weight_out_of_range_is_refused(weight):
    with pytest.raises(ValueError, match="weight="):
        Generated(weight)
