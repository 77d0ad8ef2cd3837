import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from fedfuse.data import description
from fedfuse.data.description import describe_data, entropies, label_mixes, mean_divergence, neighbours_apart
from fedfuse.data.federation import Dealt, Shared, TransferSet
from fedfuse.data.samples import Groups, LabelledData, Samples
from fedfuse.data.saved_split import SavedSplit

LABELS = [0, 0, 0, 1, 1, 1, 1, 2, 2, 0, 1, 3]


def rows(*numbers):
    return np.array(numbers, dtype=np.int64)


def data(**others):
    inputs = torch.zeros(12, 1, 2, 3, dtype=torch.uint8)
    return LabelledData(Samples(inputs, torch.tensor(LABELS)), ("a", "b", "c", "d"), **others)


def dealt(clients=(rows(0, 1, 2, 3), rows(4, 5), rows(7, 8, 6)), transfer=rows(9), num_unused=1):  # noqa: B008
    own = data()
    test = rows(11)
    num_transfer = 5 if transfer is None else len(transfer)
    shared = Shared(TransferSet(torch.zeros(num_transfer, 1)), own.samples.select(test), own.class_names)
    return Dealt(shared, own, SavedSplit(tuple(clients), test, transfer), num_unused)


def test_everything_is_counted():
    described = describe_data(data(), dealt(), seed=0)
    assert (described.num_samples, described.shape, described.dtype) == (12, (1, 2, 3), "uint8")
    assert described.classes == {"a": 4, "b": 5, "c": 2, "d": 1}
    assert described.label_counts.tolist() == [[3, 1, 0, 0], [0, 2, 0, 0], [0, 1, 2, 0]]
    assert (described.num_transfer, described.transfer_from_source, described.num_global_test) == (1, True, 1)
    assert (described.num_client_samples, described.num_unused, described.num_left_out) == (9, 1, 0)
    sizes = described.client_sizes
    assert (sizes.min, sizes.median, sizes.max) == (2, 3, 4)
    classes = described.classes_per_client
    assert (classes.min, classes.median, classes.max) == (1, 2, 2)
    assert described.classes_of_nobody == ("d",)
    assert (described.natural_clients, described.domains, described.neighbours_apart) == (None, None, None)


def test_label_entropy_is_in_bits():
    entropy = describe_data(data(), dealt(), seed=0).label_entropy
    quarter = 0.25 * 2 + 0.75 * np.log2(4 / 3)
    third = np.log2(3) / 3 + 2 / 3 * np.log2(1.5)
    assert (entropy.min, entropy.median, entropy.max) == pytest.approx((0, quarter, third))


def test_people_domains_and_neighbours_are_described_where_there_are_any():
    people = Groups(("x", "y", "z"), np.repeat([0, 1, 2], [2, 4, 6]))
    domains = Groups(("photo", "sketch"), np.repeat([0, 1], [5, 7]))
    described = describe_data(data(natural_clients=people, domains=domains, order=np.arange(12)), dealt(), seed=0)
    sizes = described.natural_clients
    assert (described.num_natural_clients, sizes.min, sizes.median, sizes.max) == (3, 2, 4, 6)
    assert described.domains == {"photo": 5, "sketch": 7}
    assert described.neighbours_apart == 2  # rows 3 and 4, and 5 and 6


def test_samples_left_out_and_a_transfer_set_from_elsewhere_are_told_apart_from_unused_ones():
    described = describe_data(data(), dealt(transfer=None, num_unused=0), seed=0)
    assert (described.num_transfer, described.transfer_from_source) == (5, False)
    assert (described.num_unused, described.num_left_out) == (0, 2)


def test_one_client_differs_from_nobody():
    assert describe_data(data(), dealt(clients=(rows(0, 1),)), seed=0).divergence is None


def test_divergence_is_the_mean_over_pairs_as_scipy_has_it():
    counts = np.random.default_rng(0).integers(0, 4, size=(12, 5))
    counts[:, 0] += 1
    mixes = label_mixes(counts)
    pairs = [jensenshannon(mixes[i], mixes[j], base=2) ** 2 for i in range(12) for j in range(i)]
    assert mean_divergence(mixes) == pytest.approx(np.mean(pairs))
    assert describe_data(data(), dealt(), 0).divergence == pytest.approx(
        mean_divergence(label_mixes(np.array([[3, 1, 0, 0], [0, 2, 0, 0], [0, 1, 2, 0]])))
    )


@pytest.mark.parametrize(("mixes", "expected"), [(np.eye(4), 1.0), (np.full((3, 7), 1 / 7), 0.0)])
def test_divergence_goes_from_0_for_alike_to_1_for_disjoint(mixes, expected):
    assert mean_divergence(mixes) == pytest.approx(expected, abs=1e-12)


def test_of_very_many_clients_some_drawn_by_seed_are_compared(monkeypatch):
    monkeypatch.setattr(description, "MOST_CLIENTS_COMPARED", 2)
    first, again, *others = (describe_data(data(), dealt(), seed) for seed in (0, 0, 1, 2, 3, 4, 5))
    assert first.num_clients_compared == 2
    assert first.divergence == again.divergence
    assert len({first.divergence, *(other.divergence for other in others)}) > 1


def test_entropy_of_one_class_is_zero_and_not_minus_zero():
    assert str(entropies(np.array([[1.0, 0.0], [0.5, 0.5]]))) == "[0. 1.]"


def test_neighbours_are_apart_only_where_their_numbers_follow_and_clients_differ():
    order = np.array([10, 11, 12, 20, 21, 30])
    assert neighbours_apart(order, (rows(1, 0), rows(2, 3), rows(4, 5))) == 2
    assert neighbours_apart(order, (rows(0, 2), rows(3, 5))) == 0
