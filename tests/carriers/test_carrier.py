import pytest
import torch

from fedfuse.carriers import prototypes, soft_labels, weights
from fedfuse.carriers.carrier import CARRIERS, stack
from fedfuse.client.client import first_state
from fedfuse.client.express import express
from fedfuse.knowledge import Knowledge


def shared_by(client, settings, request, num_examples=None):
    (expressed,) = express([client], [first_state(client, settings)], [request], settings)
    return Knowledge(client.client_id, request.round, expressed, num_examples)


def test_every_kind_of_knowledge_is_found_by_its_name_and_none_can_be_added():
    assert dict(CARRIERS) == {"soft_labels": soft_labels, "weights": weights, "prototypes": prototypes}
    with pytest.raises(TypeError):
        CARRIERS["gossip"] = soft_labels


def test_a_batch_holds_every_carrier_that_was_sent_with_a_row_for_each_client(
    make_clients, make_settings, make_expectation, share_request
):
    clients, settings = make_clients(("small", "cnn")), make_settings()
    rows = torch.tensor([1, 4, 7])
    request = share_request(round=6, sends=tuple(CARRIERS), rows=rows)
    knowledge = [shared_by(client, settings, request, 10 + client.client_id) for client in clients]
    batch = stack(knowledge, [make_expectation(client, 6, rows) for client in clients])
    assert batch.client_ids == (0, 1, 2, 3, 4)
    assert batch.round == 6
    assert batch.num_examples.tolist() == [10, 11, 12, 13, 14]
    assert batch.num_examples.dtype == torch.float64
    for row, own in enumerate(knowledge):
        assert torch.equal(batch.soft_labels[row, rows], own.carriers["soft_labels"]["soft_labels"])
        assert batch.mask[row].nonzero().flatten().tolist() == [1, 4, 7]
        assert torch.equal(batch.prototypes[row], own.carriers["prototypes"]["prototypes"])
        assert torch.equal(batch.prototype_mask[row], own.carriers["prototypes"]["mask"])
    assert [cohort.positions.tolist() for cohort in batch.weights] == [[0, 2, 4], [1, 3]]


@pytest.mark.parametrize("sends", [("soft_labels",), ("prototypes",), ("weights",), ()])
def test_a_batch_holds_no_carrier_that_was_not_sent(
    make_clients, make_settings, make_expectation, share_request, sends
):
    clients, settings = make_clients(("small",)), make_settings()
    knowledge = [shared_by(client, settings, share_request(sends=sends)) for client in clients]
    batch = stack(knowledge, [make_expectation(client) for client in clients])
    assert set(batch.tensors) == set(sends) - {"weights"}
    assert len(batch.weights) == ("weights" in sends)
    assert batch.num_examples is None


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
