import pytest
import torch

from fedfuse.carriers import (
    class_logits,
    densities,
    generated,
    head,
    private_features,
    private_soft_labels,
    prototypes,
    relations,
    soft_labels,
    weights,
)
from fedfuse.carriers.carrier import CARRIERS, ON_TRANSFER_SET, ONLY_RETURNED, ONLY_SENT, STACKED, TAUGHT, stack
from fedfuse.client.client import first_state
from fedfuse.client.express import express
from fedfuse.knowledge import Knowledge

SENT = tuple(carrier for carrier in CARRIERS if carrier not in ONLY_RETURNED)
ALL_TOLD = frozenset({"private_labels"})


def shared_by(client, settings, request, num_examples=None, label_counts=None):
    (expressed,) = express([client], [first_state(client, settings)], [request], settings)
    return Knowledge(client.client_id, request.round, expressed, num_examples, label_counts)


def test_every_kind_of_knowledge_is_found_by_its_name_and_none_can_be_added():
    assert dict(CARRIERS) == {
        "soft_labels": soft_labels,
        "weights": weights,
        "prototypes": prototypes,
        "class_logits": class_logits,
        "densities": densities,
        "relations": relations,
        "head": head,
        "generated": generated,
        "private_features": private_features,
        "private_soft_labels": private_soft_labels,
    }
    assert set(CARRIERS) > set(TAUGHT)
    assert {"soft_labels", "densities", "relations"} == ON_TRANSFER_SET
    assert set(CARRIERS) - {"weights"} - set(STACKED) == ONLY_RETURNED
    assert not ONLY_SENT & set(TAUGHT)
    with pytest.raises(TypeError):
        CARRIERS["gossip"] = soft_labels


def test_a_batch_holds_every_carrier_that_was_sent_with_a_row_for_each_client(
    make_clients, make_settings, make_expectation, share_request
):
    clients, settings = make_clients(("small", "cnn")), make_settings(share_facts=ALL_TOLD)
    rows = torch.tensor([1, 4, 7])
    request = share_request(round=6, sends=SENT, rows=rows, facts=("private_labels",))
    knowledge = [
        shared_by(client, settings, request, 10 + client.client_id, (client.client_id, 0, 1)) for client in clients
    ]
    batch = stack(knowledge, [make_expectation(client, 6, rows) for client in clients])
    assert batch.client_ids == (0, 1, 2, 3, 4)
    assert batch.round == 6
    assert batch.num_examples.tolist() == [10, 11, 12, 13, 14]
    assert batch.num_examples.dtype == torch.float64
    assert batch.label_counts.tolist() == [[0, 0, 1], [1, 0, 1], [2, 0, 1], [3, 0, 1], [4, 0, 1]]
    assert batch.label_counts.dtype == torch.float64
    for row, own in enumerate(knowledge):
        assert torch.equal(batch.soft_labels[row, rows], own.carriers["soft_labels"]["soft_labels"])
        assert batch.mask[row].nonzero().flatten().tolist() == [1, 4, 7]
        assert torch.equal(batch.prototypes[row], own.carriers["prototypes"]["prototypes"])
        assert torch.equal(batch.prototype_mask[row], own.carriers["prototypes"]["mask"])
        assert torch.equal(batch.class_logits[row], own.carriers["class_logits"]["class_logits"])
        assert torch.equal(batch.class_logits_mask[row], own.carriers["class_logits"]["mask"])
        assert torch.equal(batch.densities[row, rows], own.carriers["densities"]["densities"])
        assert torch.equal(batch.familiarity[row, rows], own.carriers["densities"]["familiarity"])
        assert torch.equal(batch.relations[row], own.carriers["relations"]["relations"])
        assert batch.relations_mask[row].nonzero().flatten().tolist() == [1, 4, 7]
        assert torch.equal(batch.tensor("head", "weight")[row], own.carriers["head"]["weight"])
        owned = batch.tensor("private_features", "owners") == row
        assert torch.equal(batch.tensor("private_features", "labels")[owned], clients[row].data.train.labels)
    assert [cohort.positions.tolist() for cohort in batch.weights] == [[0, 2, 4], [1, 3]]


@pytest.mark.parametrize("sends", [*((name,) for name in SENT), ()])
def test_a_batch_holds_no_carrier_that_was_not_sent(
    make_clients, make_settings, make_expectation, share_request, sends
):
    clients, settings = make_clients(("small",)), make_settings(share_facts=ALL_TOLD)
    request = share_request(sends=sends, facts=("private_labels",))
    knowledge = [shared_by(client, settings, request) for client in clients]
    batch = stack(knowledge, [make_expectation(client) for client in clients])
    assert set(batch.tensors) == set(sends) - {"weights"}
    assert len(batch.weights) == ("weights" in sends)
    assert batch.num_examples is None
    assert batch.label_counts is None


def test_counts_are_absent_unless_every_client_told_its_own(
    make_clients, make_settings, make_expectation, share_request
):
    clients, settings = make_clients(("small",))[:2], make_settings()
    expected = [make_expectation(client) for client in clients]
    for counts, known in (((3, 4), True), ((None, 4), False), ((3, None), False)):
        knowledge = [
            shared_by(client, settings, share_request(), count) for client, count in zip(clients, counts, strict=True)
        ]
        assert (stack(knowledge, expected).num_examples is not None) is known
    for counts, known in ((((3, 0), (0, 4)), True), ((None, (0, 4)), False), (((3, 0), None), False)):
        knowledge = [
            shared_by(client, settings, share_request(), label_counts=count)
            for client, count in zip(clients, counts, strict=True)
        ]
        assert (stack(knowledge, expected).label_counts is not None) is known
