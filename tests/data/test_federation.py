import hashlib
import struct
from dataclasses import fields
from functools import partial
from itertools import chain

import numpy as np
import pytest
import torch

from fedfuse.configuration import SplitSettings
from fedfuse.data.federation import (
    ClientData,
    Federation,
    Shared,
    TransferSet,
    check_shape,
    deal,
    federate,
    split_by_label,
    split_client,
)
from fedfuse.data.partition import dirichlet, iid
from fedfuse.data.samples import LabelledData, Samples
from fedfuse.errors import ConfigurationError

DEFAULT_PARTS = (0.6, 0.15, 0.25)


def numbered_data(class_sizes):
    """Data in which the one input of a sample is its number, in class order."""
    labels = torch.repeat_interleave(torch.arange(len(class_sizes)), torch.tensor(class_sizes))
    inputs = torch.arange(len(labels), dtype=torch.float32).unsqueeze(1)
    return LabelledData(Samples(inputs, labels), tuple("abcdefghij"[: len(class_sizes)]))


def dealt_of(seed=0, partition=iid, num_clients=4, transfer=30, class_sizes=(100, 60, 40), **options):
    share_out = partial(partition, num_clients=num_clients, seed=seed, **options)
    return deal(numbered_data(class_sizes), share_out, transfer, SplitSettings(), seed)


def federation_of(seed=0, **options):
    return federate(dealt_of(seed, **options), SplitSettings(), seed)


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


# deal and federate


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
    federation = federation_of(num_clients=1, transfer=transfer_size, class_sizes=[25] * 7 + [7, 1, 1])
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
    federation = federation_of(seed, partition=dirichlet, alpha=0.2, class_sizes=(300, 300, 300, 300))
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
    digests = [federation.shared.transfer.digest for federation in (first, again, other)]
    assert digests[0] == digests[1] != digests[2]


def test_the_labels_of_the_transfer_set_are_not_reachable():
    transfer = federation_of().shared.transfer
    assert [field.name for field in fields(transfer)] == ["inputs"]
    assert list(vars(transfer)) == ["inputs"]
    assert transfer.inputs.dtype == torch.float32
    assert transfer.inputs.untyped_storage().nbytes() == 30 * 4


def test_label_counts_cover_a_clients_three_sets():
    one, two = (Samples(torch.zeros(n, 1), torch.full((n,), n)) for n in (1, 2))
    zeros = Samples(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64))
    federation = federation_of()
    client = ClientData(train=one, validation=two, test=zeros)
    small = Federation(Shared(federation.shared.transfer, zeros, ("a", "b", "c", "d")), (client, client))
    assert small.shared.num_classes == 4
    assert small.label_counts().tolist() == [[3, 1, 2, 0]] * 2


def test_what_is_dealt_to_a_client_is_what_its_three_sets_are_made_of():
    dealt, federation = dealt_of(), federation_of()
    assert [len(samples) for samples in dealt.clients] == [33, 33, 32, 32]
    for samples, client in zip(dealt.clients, federation.clients, strict=True):
        own = [number for one in (client.train, client.validation, client.test) for number in numbers(one.inputs)]
        assert sorted(own) == sorted(numbers(samples.inputs))
    assert dealt.shared.transfer.digest == federation.shared.transfer.digest
    assert dealt.shared.class_names == federation.shared.class_names == ("a", "b", "c")


def test_a_client_splits_its_samples_alone_as_the_whole_federation_does():
    samples, federation = dealt_of().clients[2], federation_of()

    def training(client, seed=0, fractions=SplitSettings()):  # noqa: B008 it is frozen
        return numbers(split_client(client, samples, fractions, seed).train.inputs)

    alone = split_client(2, samples, SplitSettings(), 0)
    for name in ("train", "validation", "test"):
        own, expected = getattr(alone, name), getattr(federation.clients[2], name)
        assert (numbers(own.inputs), own.labels.tolist()) == (numbers(expected.inputs), expected.labels.tolist())
    # Nobody else's draws, and other ones with every seed.
    assert training(2) != training(1)
    assert training(2) != training(2, seed=1)
    assert len(training(2, fractions=SplitSettings(validation=0.25, test=0.25))) == 16


def test_for_a_transfer_set_from_elsewhere_no_sample_of_the_data_is_given_away():
    elsewhere = TransferSet(torch.full((7, 1), -1.0))
    federation = federation_of(transfer=elsewhere)
    assert federation.shared.transfer is elsewhere
    *own, transfer = sets_of(federation)
    assert transfer == [-1] * 7
    assert sorted(chain.from_iterable(own)) == list(range(200))
    assert federation.label_counts().sum() == 160
    # What tests everybody does not depend on the transfer set.
    assert numbers(federation.shared.global_test.inputs) == numbers(federation_of().shared.global_test.inputs)


def test_a_transfer_set_from_elsewhere_may_be_larger_than_the_data():
    assert len(federation_of(transfer=TransferSet(torch.zeros(500, 1))).shared.transfer) == 500


@pytest.mark.parametrize("shape", [(2,), (1, 1), ()])
def test_a_transfer_set_of_samples_of_another_shape_is_refused(shape):
    other = TransferSet(torch.zeros(7, *shape))
    for refuse in (lambda: dealt_of(transfer=other), lambda: check_shape(other, dealt_of().clients[0])):
        with pytest.raises(ConfigurationError) as caught:
            refuse()
        assert str(caught.value) == (
            f"The samples of the transfer set are of shape {list(shape)}, those of the data of [1]."
        )
    check_shape(TransferSet(torch.zeros(7, 1)), dealt_of().clients[0])


def test_casting_changes_all_inputs_and_nothing_else():
    federation = federation_of()
    shared, client = federation.shared.to(torch.float64), federation.clients[0].to(torch.float64)
    pairs = [
        (shared.transfer.inputs, federation.shared.transfer.inputs),
        (shared.global_test.inputs, federation.shared.global_test.inputs),
        *((getattr(client, name).inputs, getattr(federation.clients[0], name).inputs) for name in vars(client)),
    ]
    assert len(pairs) == 5
    for cast, original in pairs:
        assert cast.dtype == torch.float64
        assert torch.equal(cast.float(), original)
    assert shared.class_names == ("a", "b", "c")
    assert torch.equal(client.test.labels, federation.clients[0].test.labels)
    assert Shared(federation.shared.transfer, None, ("a", "b")).to(torch.float64).global_test is None


@pytest.mark.parametrize("transfer_size", [0, 160])
def test_a_transfer_set_that_cannot_be_is_refused(transfer_size):
    with pytest.raises(ConfigurationError, match=f"transfer.size={transfer_size} must be at least 1 and less than 160"):
        federation_of(transfer=transfer_size)


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
