import hashlib
import re
import struct
from dataclasses import fields, replace
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
    split_client,
)
from fedfuse.data.partitions.dirichlet import dirichlet
from fedfuse.data.partitions.iid import iid
from fedfuse.data.samples import Groups, LabelledData, Samples
from fedfuse.data.saved_split import SavedSplit, from_file, write_split
from fedfuse.data.transfer_sets import Chosen, held_out
from fedfuse.errors import ConfigurationError
from fedfuse.randomness import numpy_generator

DEFAULT_PARTS = (0.6, 0.15, 0.25)


def numbered_data(class_sizes):
    """Data in which the one input of a sample is its number, in class order."""
    labels = torch.repeat_interleave(torch.arange(len(class_sizes)), torch.tensor(class_sizes))
    inputs = torch.arange(len(labels), dtype=torch.float32).unsqueeze(1)
    return LabelledData(Samples(inputs, labels), tuple("abcdefghij"[: len(class_sizes)]))


def hold_out(data, size, seed):
    return lambda available: held_out(data, available, size, numpy_generator(seed, "transfer set"))


def dealt_of(seed=0, partition=iid, num_clients=4, transfer=30, data=None, settings=SplitSettings(), **options):  # noqa: B008
    data = data or numbered_data((100, 60, 40))
    share_out = partial(partition, num_clients=num_clients, seed=seed, **options)
    make_transfer = hold_out(data, transfer, seed) if isinstance(transfer, int) else transfer
    return deal(data, share_out, make_transfer, settings, seed)


def federation_of(seed=0, class_sizes=(100, 60, 40), **options):
    return federate(dealt_of(seed, data=numbered_data(class_sizes), **options), SplitSettings(), seed)


def numbers(inputs):
    return inputs.squeeze(1).int().tolist()


def sets_of(federation: Federation):
    samples = [one for client in federation.clients for one in (client.train, client.validation, client.test)]
    return [numbers(one.inputs) for one in (*samples, federation.shared.global_test, federation.shared.transfer)]


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
    assert [field.name for field in fields(transfer)] == ["inputs", "domains"]
    assert transfer.domains is None
    assert list(vars(transfer)) == ["inputs", "domains"]
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
    assert [len(data.samples) for data in dealt.clients] == [33, 33, 32, 32]
    for data, client in zip(dealt.clients, federation.clients, strict=True):
        own = [number for one in (client.train, client.validation, client.test) for number in numbers(one.inputs)]
        assert sorted(own) == sorted(numbers(data.samples.inputs))
    assert dealt.shared.transfer.digest == federation.shared.transfer.digest
    assert dealt.shared.class_names == federation.shared.class_names == ("a", "b", "c")


def test_the_sets_of_all_clients_are_views_of_one_copy_that_the_source_does_not_share():
    dealt, federation = dealt_of(), federation_of()
    sets = [one for client in federation.clients for one in (client.train, client.validation, client.test)]
    for kind in ("inputs", "labels"):
        (storage,) = {getattr(one, kind).untyped_storage().data_ptr() for one in sets}
        tensors = [getattr(one, kind) for one in sets]
        assert sum(tensor.nbytes for tensor in tensors) == tensors[0].untyped_storage().nbytes()
        assert storage != getattr(dealt.data.samples, kind).untyped_storage().data_ptr()


def test_a_client_splits_its_samples_alone_as_the_whole_federation_does():
    data, federation = dealt_of().clients[2], federation_of()

    def training(client, seed=0, fractions=SplitSettings()):  # noqa: B008 it is frozen
        return numbers(split_client(client, data, fractions, seed).train.inputs)

    alone = split_client(2, data, SplitSettings(), 0)
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
    assert federation.shared.transfer.inputs is elsewhere.inputs
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
    for refuse in (lambda: dealt_of(transfer=other), lambda: check_shape(other, dealt_of().clients[0].samples)):
        with pytest.raises(ConfigurationError) as caught:
            refuse()
        assert str(caught.value) == (
            f"The samples of the transfer set are of shape {list(shape)}, those of the data of [1]."
        )
    check_shape(TransferSet(torch.zeros(7, 1)), dealt_of().clients[0].samples)


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


@pytest.mark.parametrize("shares", [[[0, 1], [1, 2]], [[0, 1, 2], [3]], [[0, -1], [1]]])
def test_a_partition_that_repeats_samples_or_names_others_is_refused(shares):
    def broken(population):
        assert len(population) == 3
        return [np.array(share) for share in shares]

    data = numbered_data((5,))
    with pytest.raises(ConfigurationError, match="gives one of the 3 samples to two clients, or one more"):
        deal(data, broken, hold_out(data, 1, 0), SplitSettings(), 0)


def test_samples_that_nobody_has_are_counted():
    def wasteful(population):
        return [np.arange(40), np.arange(50, 60)]

    data = numbered_data((100, 60, 40))
    assert deal(data, wasteful, hold_out(data, 30, 0), SplitSettings(), 0).num_unused == 130 - 50
    assert dealt_of().num_unused == 0


def test_only_so_many_samples_are_used_with_the_label_mix_of_all():
    settings = SplitSettings(samples=100)
    first, again, other = (dealt_of(seed, settings=settings) for seed in (0, 0, 1))
    used = [
        sorted(np.concatenate([*one.split.clients, one.split.global_test, one.split.transfer]))
        for one in (first, other)
    ]
    labels = numbered_data((100, 60, 40)).samples.labels.numpy()
    assert np.bincount(labels[used[0]]).tolist() == [50, 30, 20]
    assert used[0] != used[1]
    assert np.array_equal(first.split.transfer, again.split.transfer)
    assert first.num_unused == 0
    with pytest.raises(ConfigurationError, match=r"split\.samples=201, but the data has 200 samples"):
        dealt_of(settings=SplitSettings(samples=201))


def test_what_the_source_keeps_for_testing_can_test_everybody():
    data = numbered_data((100, 60, 40))
    official = np.arange(200) % 10 == 3
    marked = LabelledData(data.samples, data.class_names, official_test=official)
    dealt = dealt_of(data=marked, settings=SplitSettings(global_test="official"))
    assert sorted(numbers(dealt.shared.global_test.inputs)) == np.flatnonzero(official).tolist()
    assert sum(len(own.samples) for own in dealt.clients) == 150
    with pytest.raises(
        ConfigurationError, match=r"split\.global_test=official, but the data source names no test samples"
    ):
        dealt_of(settings=SplitSettings(global_test="official"))
    with pytest.raises(
        ConfigurationError, match="global_test must be a number between 0 and 1, or official, not 'officail'"
    ):
        SplitSettings(global_test="officail")


def test_pixels_stay_bytes_with_the_clients_and_are_numbers_in_the_transfer_set():
    inputs = (torch.arange(200) % 256).to(torch.uint8).reshape(-1, 1, 1, 1)
    data = LabelledData(Samples(inputs, torch.arange(200) % 2), ("a", "b"))
    dealt = dealt_of(data=data)
    federation = federate(dealt, SplitSettings(), 0)
    assert {getattr(client, name).inputs.dtype for client in federation.clients for name in vars(client)} == {
        torch.uint8
    }
    assert federation.clients[0].to(torch.float64).train.inputs.dtype == torch.uint8
    assert federation.shared.transfer.inputs.dtype == torch.float32
    expected = torch.from_numpy(dealt.split.transfer).float().reshape(-1, 1, 1, 1) % 256 / 255
    assert torch.equal(federation.shared.transfer.inputs, expected)


def recordings(num_people=3, num_classes=2, length=30):
    """Data of some people, each with a recording of every class, whose samples are in random order."""
    kinds = np.repeat(np.arange(num_people * num_classes), length)
    order = np.arange(len(kinds)) + kinds  # a gap between recordings
    shuffled = np.random.default_rng(0).permutation(len(kinds))
    kinds, order = kinds[shuffled], order[shuffled]
    return LabelledData(
        Samples(torch.from_numpy(order).float().unsqueeze(1), torch.from_numpy(kinds % num_classes)),
        tuple("abc"[:num_classes]),
        natural_clients=Groups(tuple("ABCDE"[:num_people]), kinds // num_classes),
        order=order,
    )


def test_no_two_sets_of_recordings_touch():
    data = recordings()

    def by_person(population):
        return [np.flatnonzero(population.natural_clients.members == person) for person in range(3)]

    dealt = deal(data, by_person, hold_out(data, 18, 0), SplitSettings(), 0)
    federation = federate(dealt, SplitSettings(), 0)
    sets = sets_of(federation)
    assert [len(sets[-1]), len(sets[-2])] == [18, 36]
    owner = {number: index for index, one in enumerate(sets) for number in one}
    assert sum(map(len, sets)) == len(owner)
    touching = [(one, owner[one], owner[one + 1]) for one in owner if one + 1 in owner and owner[one] != owner[one + 1]]
    assert touching == []
    # A cut costs one sample at most: two for each person and activity before the clients split, two after.
    assert 0 < dealt.num_unused <= 12
    assert len(owner) >= 180 - 24


def test_a_saved_split_is_used_exactly(tmp_path):
    first = dealt_of(seed=5)
    write_split(tmp_path / "split.json", first.split)
    settings = SplitSettings(path=str(tmp_path / "split.json"))
    again = dealt_of(seed=6, partition=from_file, path=tmp_path / "split.json", settings=settings)
    for one, two in zip(first.clients, again.clients, strict=True):
        assert torch.equal(one.samples.inputs, two.samples.inputs)
    assert torch.equal(first.shared.global_test.inputs, again.shared.global_test.inputs)
    assert first.shared.transfer.digest == again.shared.transfer.digest


def test_what_a_saved_split_does_not_say_is_drawn_from_rows_that_it_gives_to_nobody(tmp_path):
    clients = (np.arange(0, 40), np.arange(60, 120))
    write_split(tmp_path / "split.json", SavedSplit(clients))
    settings = SplitSettings(path=str(tmp_path / "split.json"))
    options = {"partition": from_file, "path": tmp_path / "split.json", "settings": settings, "num_clients": 2}
    dealt = dealt_of(**options)
    assert [own.tolist() for own in dealt.split.clients] == [own.tolist() for own in clients]
    free = set(range(40, 60)) | set(range(120, 200))
    assert set(dealt.split.transfer) <= free
    assert set(dealt.split.global_test) <= free
    assert (len(dealt.split.transfer), len(dealt.split.global_test)) == (30, 20)
    assert set(dealt.split.transfer).isdisjoint(dealt.split.global_test)
    assert dealt.num_unused == 200 - 100 - 30 - 20


def labelled_deal(number, **options):
    data = numbered_data((100, 60, 40))
    transfer = options.pop("transfer", hold_out(data, 30, 0))
    return deal(data, partial(iid, num_clients=4, seed=0), transfer, SplitSettings(), 0, number)


def test_the_server_is_given_labels_of_the_first_transfer_samples_only_where_that_is_configured():
    assert labelled_deal(0).server_labels is None
    dealt = labelled_deal(7)
    labels = numbered_data((100, 60, 40)).samples.labels
    assert dealt.server_labels.tolist() == labels[numbers(dealt.shared.transfer.inputs)[:7]].tolist()
    assert federate(dealt, SplitSettings(), 0).server_labels is dealt.server_labels


def test_labels_that_are_not_known_cannot_be_given_to_the_server():
    with pytest.raises(ConfigurationError, match=r"transfer\.labelled=31 must be at most 30"):
        labelled_deal(31)
    with pytest.raises(
        ConfigurationError, match=r"transfer\.labelled=3, but the labels of this transfer set are not known"
    ):
        labelled_deal(3, transfer=TransferSet(torch.zeros(5, 1)))


def test_a_transfer_set_made_of_no_rows_takes_none():
    def noise(available):
        return Chosen(torch.zeros(5, 1), kept=available)

    dealt = dealt_of(transfer=noise)
    assert dealt.split.transfer is None
    assert sum(len(own.samples) for own in dealt.clients) == 160


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


def test_the_digest_tells_domains_apart_and_is_as_ever_without():
    inputs = torch.arange(6, dtype=torch.float32).reshape(3, 2)
    plain = b"torch.float32 [3, 2]" + struct.pack("<6f", 0, 1, 2, 3, 4, 5)
    assert TransferSet(inputs).digest == hashlib.sha256(plain).hexdigest()[:16]
    expected = hashlib.sha256(plain + b"domains" + struct.pack("<3q", 0, 1, 0)).hexdigest()
    assert TransferSet(inputs, torch.tensor([0, 1, 0])).digest == expected[:16]
    digests = {TransferSet(inputs, torch.tensor(domains)).digest for domains in ([0, 1, 0], [0, 0, 1], [0, 0, 0])}
    assert len(digests | {TransferSet(inputs).digest}) == 4


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        (
            torch.tensor([0, 1]),
            "Domains are torch.int64 of shape [2]; they must be torch.int64, one for each of the 3 ",
        ),
        (torch.tensor([0.0, 1, 0]), "Domains are torch.float32 of shape [3]; they must be torch.int64, one for each "),
        (torch.tensor([[0], [1], [0]]), "Domains are torch.int64 of shape [3, 1]; they must be torch.int64, one for "),
        (torch.tensor([0, 3, 0]), "must be numbered 0, 1, ... without a gap; 3 stands in place of 1."),
        (torch.tensor([1, 1, 2]), "must be numbered 0, 1, ... without a gap; 1 stands in place of 0."),
        (torch.tensor([0, 1, -1]), "must be numbered 0, 1, ... without a gap; -1 stands in place of 0."),
    ],
)
def test_domains_that_are_not_one_for_each_sample_numbered_without_a_gap_are_refused(domains, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        TransferSet(torch.zeros(3, 1), domains)


def test_the_transfer_set_keeps_the_domains_of_its_rows_in_any_precision():
    data = replace(numbered_data((100, 60, 40)), domains=Groups(("a", "b", "c"), np.arange(200) % 3))
    shared = dealt_of(data=data).shared
    expected = [number % 3 for number in numbers(shared.transfer.inputs)]
    assert shared.transfer.domains.tolist() == expected
    double = shared.to(torch.float64).transfer
    assert double.inputs.dtype == torch.float64
    assert double.domains.tolist() == expected
    assert dealt_of().shared.transfer.domains is None


def test_a_split_made_before_has_the_domains_of_its_transfer_set(tmp_path):
    data = replace(numbered_data((100, 60, 40)), domains=Groups(("a", "b", "c"), np.arange(200) % 3))
    path = tmp_path / "split.json"
    write_split(path, dealt_of(data=data).split)
    again = dealt_of(data=data, partition=from_file, path=path, settings=SplitSettings(path=str(path)))
    assert numbers(again.shared.transfer.inputs) == numbers(dealt_of(data=data).shared.transfer.inputs)
    assert again.shared.transfer.digest == dealt_of(data=data).shared.transfer.digest
    assert again.shared.transfer.domains is not None


def test_a_transfer_set_from_elsewhere_keeps_its_own_domains():
    data = replace(numbered_data((100, 60, 40)), domains=Groups(("a", "b"), np.arange(200) % 2))
    domains = torch.tensor([0, 1, 2, 0, 0])
    assert dealt_of(data=data, transfer=TransferSet(torch.zeros(5, 1), domains)).shared.transfer.domains is domains
    assert dealt_of(data=data, transfer=TransferSet(torch.zeros(5, 1))).shared.transfer.domains is None
