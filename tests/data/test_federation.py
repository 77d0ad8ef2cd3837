import hashlib
import struct
from dataclasses import fields
from functools import partial
from itertools import chain

import numpy as np
import pytest
import torch

from fedfuse.configuration import SplitSettings
from fedfuse.data.federation import Federation, Shared, TransferSet, deal, federate, split_by_label
from fedfuse.data.partition import dirichlet, iid
from fedfuse.data.samples import LabelledData, Samples
from fedfuse.errors import ConfigurationError

DEFAULT_PARTS = (0.6, 0.15, 0.25)


def numbered_data(class_sizes):
    """Data in which the one input of a sample is its number, in class order."""
    labels = torch.repeat_interleave(torch.arange(len(class_sizes)), torch.tensor(class_sizes))
    inputs = torch.arange(len(labels), dtype=torch.float32).unsqueeze(1)
    return LabelledData(Samples(inputs, labels), tuple("abcdefghij"[: len(class_sizes)]))


def federation_of(seed=0, partition=iid, num_clients=4, transfer_size=30, class_sizes=(100, 60, 40), **options):
    share_out = partial(partition, num_clients=num_clients, seed=seed, **options)
    dealt = deal(numbered_data(class_sizes), share_out, transfer_size, SplitSettings(), seed)
    return federate(dealt, SplitSettings(), seed)


def numbers(inputs):
    return inputs.squeeze(1).int().tolist()


def sets_of(federation: Federation):
    samples = [one for client in federation.clients for one in (client.train, client.validation, client.test)]
    return [numbers(one.inputs) for one in (*samples, federation.shared.global_test, federation.shared.transfer)]


def split(labels, fractions=DEFAULT_PARTS, seed=0):
    return split_by_label(np.asarray(labels), fractions, np.random.default_rng(seed))


# split_by_label


def test_every_position_is_in_one_part_and_sizes_and_label_mixes_are_within_one_sample():
    generator = np.random.default_rng(0)
    for trial in range(300):
        labels = np.repeat(np.arange(12), generator.integers(0, generator.choice([2, 4, 40]), 12))
        num_parts = generator.integers(2, 4)
        fractions = generator.dirichlet(np.ones(num_parts))
        parts = split(labels, fractions, seed=trial)
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
        for part, fraction in zip(parts, fractions, strict=True):
            assert abs(len(part) - fraction * len(labels)) < 1
            counts = np.bincount(labels[part], minlength=12)
            assert (abs(counts - fraction * np.bincount(labels, minlength=12)) < 1).all()


def test_shares_that_are_whole_numbers_are_met_exactly():
    labels = np.repeat([0, 1, 2], [20, 40, 100])
    counts = [np.bincount(labels[part]).tolist() for part in split(labels)]
    assert counts == [[12, 24, 60], [3, 6, 15], [5, 10, 25]]


def test_a_share_that_is_a_whole_number_is_met_whatever_other_classes_leave_over():
    # In floating point 0.07 * 100 is a little more than 7.
    for seed in range(30):
        small = np.repeat(np.arange(5), np.random.default_rng(seed).integers(1, 9, 5))
        labels = np.concatenate([small, np.full(100, 5)])
        assert (labels[split(labels, (0.07, 0.465, 0.465), seed)[0]] == 5).sum() == 7


def test_samples_left_over_by_rounding_fill_up_the_sizes():
    # Each class of 3 has exact shares 1.8, 0.45 and 0.75.
    labels = np.repeat(np.arange(20), 3)
    assert [len(part) for part in split(labels)] == [36, 9, 15]


@pytest.mark.parametrize("fractions", [DEFAULT_PARTS, (0.2, 0.8)])
def test_a_class_with_one_sample_goes_to_the_first_part(fractions):
    for seed in range(50):
        others = np.repeat(np.arange(1, 9), np.random.default_rng(seed).integers(2, 9, 8))
        assert 0 in split([0, *others], fractions, seed)[0]


def test_many_classes_with_one_sample_leave_no_part_empty():
    assert [len(part) for part in split(np.arange(20))] == [12, 3, 5]


def test_a_part_is_in_random_order_and_the_generator_decides_it():
    labels = np.repeat([0, 1], 50)
    first, again, other = (split(labels, seed=seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(np.sort(first), np.sort(other))
    assert (np.diff(labels[first]) != 0).sum() > 10


def test_no_samples_give_empty_parts():
    assert [part.tolist() for part in split(np.empty(0, dtype=np.int64))] == [[], [], []]


@pytest.mark.parametrize("fractions", [(0.5, 0.6), (1.2, -0.2)])
def test_fractions_that_are_no_shares_of_a_whole_are_refused(fractions):
    with pytest.raises(ConfigurationError, match="must be at least 0 and sum to 1"):
        split([0, 1], fractions)


# federate


@pytest.mark.parametrize("partition", [iid, dirichlet])
def test_no_sample_is_in_two_sets_and_none_is_lost(partition):
    everything = chain.from_iterable(sets_of(federation_of(partition=partition)))
    assert sorted(everything) == list(range(200))


def test_set_sizes():
    federation = federation_of()
    assert (len(federation.shared.global_test), len(federation.shared.transfer)) == (40, 30)
    # 130 samples remain for four clients of 33, 33, 32, 32.
    assert federation.label_counts().sum(axis=1).tolist() == [33, 33, 32, 32]
    for client in federation.clients:
        total = len(client.train) + len(client.validation) + len(client.test)
        assert abs(len(client.validation) - 0.15 * total) < 1
        assert abs(len(client.test) - 0.25 * total) < 1


@pytest.mark.parametrize("transfer_size", [1, 7, 100, 130])
def test_the_transfer_set_has_exactly_the_size_asked_for(transfer_size):
    federation = federation_of(num_clients=1, transfer_size=transfer_size, class_sizes=[25] * 7 + [7, 1, 1])
    assert len(federation.shared.transfer) == transfer_size


def test_global_test_and_transfer_set_have_the_label_mix_of_the_data():
    federation = federation_of()
    labels = numbered_data((100, 60, 40)).samples.labels
    assert torch.bincount(federation.shared.global_test.labels).tolist() == [20, 12, 8]
    assert torch.bincount(labels[numbers(federation.shared.transfer.inputs)]).tolist() == [15, 9, 6]


def test_labels_stay_with_their_inputs():
    federation = federation_of()
    labels = numbered_data((100, 60, 40)).samples.labels
    for samples in (federation.shared.global_test, *(client.test for client in federation.clients)):
        assert samples.labels.tolist() == labels[numbers(samples.inputs)].tolist()


@pytest.mark.parametrize("seed", range(5))
def test_a_clients_three_sets_have_its_own_label_mix(seed):
    federation = federation_of(seed, dirichlet, alpha=0.2, class_sizes=(300, 300, 300, 300))
    counts = federation.label_counts()
    assert (counts.max(axis=1) > 0.4 * counts.sum(axis=1)).any()
    for client, own in zip(federation.clients, counts, strict=True):
        for samples, fraction in zip((client.train, client.validation, client.test), DEFAULT_PARTS, strict=True):
            assert (abs(torch.bincount(samples.labels, minlength=4).numpy() - fraction * own) < 1).all()


def test_sets_are_not_in_class_order():
    federation = federation_of(num_clients=1)
    for labels in (federation.shared.global_test.labels, federation.clients[0].train.labels):
        assert (labels.diff() != 0).sum() > 10
    transfer = torch.tensor(numbers(federation.shared.transfer.inputs))
    assert not torch.equal(transfer, transfer.sort().values)


def test_the_seed_decides_the_federation():
    first, again, other = (federation_of(seed) for seed in (1, 1, 2))
    assert sets_of(first) == sets_of(again)
    assert all(set(one) != set(two) for one, two in zip(sets_of(first), sets_of(other), strict=True))
    assert first.transfer.digest == again.transfer.digest != other.transfer.digest


def test_the_labels_of_the_transfer_set_are_not_reachable():
    transfer = federation_of().transfer
    assert [field.name for field in fields(transfer)] == ["inputs"]
    assert list(vars(transfer)) == ["inputs"]
    assert transfer.inputs.dtype == torch.float32
    assert transfer.inputs.untyped_storage().nbytes() == 30 * 4


def test_label_counts_cover_a_clients_three_sets():
    one, two = (Samples(torch.zeros(n, 1), torch.full((n,), n)) for n in (1, 2))
    zeros = Samples(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64))
    federation = federation_of()
    client = type(federation.clients[0])(train=one, validation=two, test=zeros)
    small = Federation(Shared(federation.shared.transfer, zeros, ("a", "b", "c", "d")), (client, client))
    assert small.num_classes == 4
    assert small.label_counts().tolist() == [[3, 1, 2, 0]] * 2


@pytest.mark.parametrize("transfer_size", [0, 160])
def test_a_transfer_set_that_cannot_be_is_refused(transfer_size):
    with pytest.raises(ConfigurationError, match=f"transfer.size={transfer_size} must be at least 1 and less than 160"):
        federation_of(transfer_size=transfer_size)


def test_a_client_with_an_empty_set_is_named():
    with pytest.raises(ConfigurationError, match="Client 0 has 3 samples, which leaves it no validation sample"):
        federation_of(num_clients=50)


def test_an_empty_global_test_set_is_refused():
    with pytest.raises(ConfigurationError, match="global test set is empty: 2 samples"):
        federation_of(class_sizes=(1, 1))


@pytest.mark.parametrize("shares", [[[0, 1], [1, 2]], [[0], [1]], [[0, 1, 2], [3]]])
def test_a_partition_that_loses_or_repeats_samples_is_refused(shares):
    def broken(labels):
        assert len(labels) == 3
        return [np.array(share) for share in shares]

    with pytest.raises(ConfigurationError, match="each of the 3 samples to exactly one client"):
        deal(numbered_data((5,)), broken, 1, SplitSettings(), 0)


@pytest.mark.parametrize("name", ["global_test", "validation", "test"])
@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_a_fraction_outside_0_and_1_is_refused(name, fraction):
    with pytest.raises(ConfigurationError, match=f"{name} must be a number between 0 and 1"):
        SplitSettings(**{name: fraction})


def test_fractions_that_leave_no_training_samples_are_refused():
    with pytest.raises(ConfigurationError, match=r"validation \(0.5\) and test \(0.5\) together must stay below 1"):
        SplitSettings(validation=0.5, test=0.5)


# TransferSet


def test_the_digest_is_a_fixed_function_of_type_shape_and_values():
    inputs = torch.arange(6, dtype=torch.float32)
    digests = [
        TransferSet(one).digest
        for one in (inputs.reshape(2, 3), inputs.reshape(3, 2), inputs.reshape(2, 3).double(), inputs.flip(0))
    ]
    expected = hashlib.sha256(b"torch.float32 [2, 3]" + struct.pack("<6f", 0, 1, 2, 3, 4, 5)).hexdigest()
    assert digests[0] == expected[:16]
    assert len(set(digests)) == 4
    # A transposed view has the same values in another memory order.
    assert TransferSet(inputs.reshape(3, 2).T.contiguous().T).digest == digests[1]
