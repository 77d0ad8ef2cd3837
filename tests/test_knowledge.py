import dataclasses
import math

import pytest
import torch

from fedfuse.knowledge import (
    Fused,
    InvalidKnowledgeError,
    Knowledge,
    KnowledgeBatch,
    WeightStack,
    check_finite,
    is_finite,
)


def soft_labels():
    return {"soft_labels": {"soft_labels": torch.tensor([[0.25, 0.75]]), "rows": torch.tensor([4], dtype=torch.int32)}}


def batch(**changes):
    values = {
        "client_ids": (3, 8),
        "round": 2,
        "tensors": {
            "soft_labels": {"soft_labels": torch.full((2, 4, 5), 0.2), "mask": torch.ones(2, 4, dtype=torch.bool)},
            "prototypes": {"prototypes": torch.zeros(2, 5, 6), "mask": torch.zeros(2, 5, dtype=torch.bool)},
        },
    }
    return KnowledgeBatch(**{**values, **changes})


# -- Knowledge ---------------------------------------------------------------------------------------------------------


def test_knowledge_holds_what_it_was_given():
    knowledge = Knowledge(client_id=0, round=1, carriers=soft_labels(), num_examples=1)
    assert knowledge.carriers["soft_labels"]["soft_labels"].tolist() == [[0.25, 0.75]]
    assert knowledge.num_examples == 1
    assert Knowledge(0, 1, {}).num_examples is None
    assert Knowledge(0, 1, {}, label_counts=(0, 2**40 - 1)).label_counts == (0, 2**40 - 1)
    assert Knowledge(0, 1, {}).label_counts is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"client_id": -1}, "client -1, round 1: out of range"),
        ({"round": 0}, "client 0, round 0: out of range"),
        ({"num_examples": 0}, "implausible number of examples: 0"),
        ({"num_examples": -5}, "implausible number of examples: -5"),
        ({"num_examples": 2**40}, "implausible number of examples: 1099511627776"),
        ({"label_counts": (3, -1)}, "implausible label counts"),
        ({"label_counts": (2**40, 1)}, "implausible label counts"),
        ({"label_counts": (0, 0)}, "implausible label counts"),
        ({"label_counts": ()}, "implausible label counts"),
    ],
)
def test_numbers_out_of_range_are_refused(changes, message):
    with pytest.raises(InvalidKnowledgeError, match=message):
        Knowledge(**{"client_id": 0, "round": 1, "carriers": soft_labels(), **changes})


def test_the_largest_number_of_examples_is_allowed():
    assert Knowledge(0, 1, {}, num_examples=2**40 - 1).num_examples == 2**40 - 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_tensor_that_is_not_finite_is_refused(value, dtype):
    carriers = {"weights": {"bias": torch.zeros(3), "weight": torch.tensor([[0.0, value]], dtype=dtype)}}
    with pytest.raises(InvalidKnowledgeError, match="weights: weight is not finite, or above 1e12"):
        Knowledge(0, 1, carriers)


def test_integers_and_truth_values_are_finite():
    check_finite("prototypes", {"mask": torch.tensor([True]), "count": torch.tensor([2**62])})


def test_invalid_knowledge_is_a_value_error():
    assert issubclass(InvalidKnowledgeError, ValueError)


def test_knowledge_cannot_be_changed():
    given = soft_labels()
    knowledge = Knowledge(0, 1, given)
    with pytest.raises(dataclasses.FrozenInstanceError):
        knowledge.round = 2
    with pytest.raises(TypeError):
        knowledge.carriers["weights"] = {}
    with pytest.raises(TypeError):
        knowledge.carriers["soft_labels"]["rows"] = torch.zeros(1)
    given["soft_labels"]["more"] = torch.full((1,), math.nan)
    given["weights"] = {}
    assert set(knowledge.carriers) == {"soft_labels"}
    assert set(knowledge.carriers["soft_labels"]) == {"soft_labels", "rows"}


# -- KnowledgeBatch ----------------------------------------------------------------------------------------------------


def test_a_batch_gives_the_tensors_of_each_carrier():
    knowledge = batch()
    assert len(knowledge) == 2
    assert knowledge.soft_labels is knowledge.tensors["soft_labels"]["soft_labels"]
    assert knowledge.mask is knowledge.tensors["soft_labels"]["mask"]
    assert knowledge.prototypes is knowledge.tensors["prototypes"]["prototypes"]
    assert knowledge.prototype_mask is knowledge.tensors["prototypes"]["mask"]
    assert knowledge.tensor("prototypes", "mask") is knowledge.prototype_mask
    assert knowledge.weights == ()


@pytest.mark.parametrize(
    ("name", "carrier"),
    [
        ("soft_labels", "soft_labels"),
        ("mask", "soft_labels"),
        ("prototypes", "prototypes"),
        ("prototype_mask", "prototypes"),
        ("class_logits", "class_logits"),
        ("class_logits_mask", "class_logits"),
        ("densities", "densities"),
        ("familiarity", "densities"),
        ("relations", "relations"),
        ("relations_mask", "relations"),
        ("related", "relations"),
    ],
)
def test_a_carrier_that_was_not_asked_for_is_named(name, carrier):
    with pytest.raises(KeyError, match=f"no '{carrier}' in this batch: the strategy's sends must name it"):
        getattr(batch(tensors={}), name)


def test_example_shares_sum_to_one():
    knowledge = batch(num_examples=torch.tensor([30.0, 10.0], dtype=torch.float64))
    assert knowledge.example_shares.tolist() == [0.75, 0.25]


def test_example_shares_need_the_counts():
    with pytest.raises(KeyError, match="needs must name 'num_examples'"):
        _ = batch().example_shares


def test_label_shares_of_each_client_sum_to_one():
    knowledge = batch(label_counts=torch.tensor([[30.0, 10.0], [0.0, 2.0]], dtype=torch.float64))
    assert knowledge.label_shares.tolist() == [[0.75, 0.25], [0, 1]]


def test_label_shares_need_the_counts():
    with pytest.raises(KeyError, match="needs must name 'label_counts'"):
        _ = batch().label_shares


def test_a_batch_gives_class_logits_and_densities():
    tensors = {
        "class_logits": {"class_logits": torch.zeros(2, 5, 5), "mask": torch.ones(2, 5, dtype=torch.bool)},
        "densities": {"densities": torch.full((2, 4), -3.0), "familiarity": torch.zeros(2, 4)},
    }
    knowledge = batch(tensors=tensors)
    assert knowledge.class_logits is tensors["class_logits"]["class_logits"]
    assert knowledge.class_logits_mask is tensors["class_logits"]["mask"]
    assert knowledge.densities is tensors["densities"]["densities"]
    assert knowledge.familiarity is tensors["densities"]["familiarity"]


def test_a_batch_gives_relations_and_says_which_pairs_each_client_answered():
    # Of samples 0, 2 and 3, which are the pairs (0, 2), (0, 3) and (2, 3); nobody answered 1.
    mask = torch.tensor([[True, False, True, False], [True, False, True, True], [False, False, False, True]])
    tensors = {"relations": {"relations": torch.ones(3, 3), "mask": mask}}
    knowledge = batch(tensors=tensors)
    assert knowledge.relations is tensors["relations"]["relations"]
    assert knowledge.relations_mask is mask
    assert knowledge.related.tolist() == [[True, False, False], [True, True, True], [False, False, False]]


def test_a_batch_and_its_weights_cannot_be_changed():
    knowledge = batch(weights=(WeightStack("mlp", torch.tensor([0, 1]), {"bias": torch.zeros(2, 3)}),))
    with pytest.raises(dataclasses.FrozenInstanceError):
        knowledge.client_ids = (1, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        knowledge.weights[0].architecture = "cnn"


# -- Fused -------------------------------------------------------------------------------------------------------------


def test_fused_of_nothing_is_nothing():
    fused = Fused()
    assert fused.common is None
    assert fused.personal == {}
    assert fused.relevance is None


def test_for_all_gives_everybody_the_same_tensors():
    weights, relevance = {"bias": torch.ones(3)}, torch.eye(2)
    fused = Fused.for_all(relevance=relevance, weights=weights)
    assert fused.common["weights"]["bias"] is weights["bias"]
    assert fused.personal == {}
    assert fused.relevance is relevance


def test_for_each_gives_each_client_its_row_of_every_tensor():
    values, mask = torch.arange(12.0).reshape(2, 3, 2), torch.tensor([[True, True, False], [False, True, True]])
    fused = Fused.for_each((7, 4), torch.eye(2), soft_labels={"soft_labels": values, "mask": mask})
    assert fused.common is None
    assert list(fused.personal) == [7, 4]
    assert torch.equal(fused.personal[7]["soft_labels"]["soft_labels"], values[0])
    assert torch.equal(fused.personal[4]["soft_labels"]["soft_labels"], values[1])
    assert fused.personal[4]["soft_labels"]["mask"].tolist() == [False, True, True]
    assert torch.equal(fused.relevance, torch.eye(2))


def test_for_each_copies_nothing():
    values = torch.zeros(2, 3)
    fused = Fused.for_each((0, 1), prototypes={"prototypes": values})
    values[1] = 5
    assert fused.personal[1]["prototypes"]["prototypes"].tolist() == [5, 5, 5]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_fused_knowledge_that_is_not_finite_is_refused(value):
    bad = {"bias": torch.tensor([[0.0], [value]])}
    for make in (
        lambda: Fused.for_all(weights=bad),
        lambda: Fused.for_each((0, 1), weights=bad),
        lambda: Fused(common={"weights": bad}),
        lambda: Fused(personal={3: {"weights": bad}}),
    ):
        with pytest.raises(InvalidKnowledgeError, match="weights: bias is not finite, or above 1e12"):
            make()


def test_fused_knowledge_cannot_be_changed():
    fused = Fused.for_all(weights={"bias": torch.ones(3)})
    with pytest.raises(dataclasses.FrozenInstanceError):
        fused.common = None
    with pytest.raises(TypeError):
        fused.common["weights"]["bias"] = torch.zeros(3)


@pytest.mark.parametrize(("value", "finite"), [(1e12, True), (-1e12, True), (1.1e12, False), (-3e38, False)])
def test_numbers_that_would_overflow_a_sum_count_as_not_finite(value, finite):
    assert is_finite(torch.tensor([0.0, value])) is finite
    assert is_finite(torch.tensor([2**62]))


def test_the_first_transfer_samples_that_anybody_answered_can_be_kept():
    soft_labels = torch.rand(2, 6, 3)
    mask = torch.tensor([[0, 1, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1]], dtype=torch.bool)
    tensors = {"soft_labels": {"soft_labels": soft_labels, "mask": mask}}
    few = KnowledgeBatch((3, 5), 2, tensors).first_answered(3)
    assert (few.client_ids, few.round) == ((3, 5), 2)
    assert torch.equal(few.soft_labels, soft_labels[:, [1, 3, 4]])
    assert torch.equal(few.mask, mask[:, [1, 3, 4]])
    assert torch.equal(KnowledgeBatch((3, 5), 2, tensors).first_answered(9).mask, mask[:, [1, 3, 4, 5]])
