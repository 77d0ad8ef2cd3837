import pytest
import torch

from fedfuse.audit.planting import with_probes, with_training_samples
from fedfuse.data.federation import ClientData, Federation, Shared, TransferSet
from fedfuse.data.samples import Samples


@pytest.fixture
def federation(make_samples):
    """Two clients, and a transfer set of four samples from two domains."""
    transfer = TransferSet(make_samples(4).inputs, torch.tensor([0, 1, 1, 0]))
    clients = tuple(ClientData(make_samples(3, seed), make_samples(2), make_samples(2)) for seed in (1, 2))
    return Federation(Shared(transfer, make_samples(5), ("a", "b", "c")), clients)


def test_only_the_training_data_of_one_client_grow(federation):
    inputs, labels = torch.ones(2, 1, 4, 4, dtype=torch.float64), torch.tensor([2, 0])
    planted = with_training_samples(federation, 1, inputs, labels)
    train, before = planted.clients[1].train, federation.clients[1].train
    assert torch.equal(train.inputs, torch.cat([before.inputs, inputs]))
    assert train.labels.tolist() == [*before.labels.tolist(), 2, 0]
    assert planted.clients[0] is federation.clients[0]
    assert planted.clients[1].validation is federation.clients[1].validation
    assert planted.clients[1].test is federation.clients[1].test
    assert planted.shared is federation.shared
    assert len(before) == 3


def test_probes_are_appended_to_the_transfer_set_whose_digest_follows(federation):
    probes = torch.full((3, 1, 4, 4), 0.5, dtype=torch.float64)
    planted, rows = with_probes(federation, probes)
    transfer, before = planted.shared.transfer, federation.shared.transfer
    assert rows.tolist() == [4, 5, 6]
    assert torch.equal(transfer.inputs, torch.cat([before.inputs, probes]))
    assert torch.equal(transfer.inputs[rows], probes)
    assert transfer.domains.tolist() == [0, 1, 1, 0, 0, 1, 1]
    assert transfer.digest != before.digest
    assert len(before) == 4
    assert planted.clients is federation.clients
    assert planted.shared.global_test is federation.shared.global_test


def test_probes_that_are_bytes_are_scaled_as_transfer_samples_are(federation):
    planted, rows = with_probes(federation, torch.full((1, 1, 4, 4), 51, dtype=torch.uint8))
    assert planted.shared.transfer.inputs[rows].unique().tolist() == [0.2]


def test_training_samples_can_be_bytes(federation):
    own = ClientData(Samples(torch.zeros(1, 2, dtype=torch.uint8), torch.tensor([0])), None, None)
    bytes_only = Federation(federation.shared, (own,))
    inputs = torch.full((1, 2), 7, dtype=torch.uint8)
    assert with_training_samples(bytes_only, 0, inputs, torch.tensor([1])).clients[0].train.inputs.dtype == torch.uint8
