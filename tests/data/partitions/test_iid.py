import numpy as np

from fedfuse.data.partitions.iid import iid
from fedfuse.data.samples import Population

LABELS = np.repeat(np.arange(10), 120)
DATA = Population(LABELS, 10, np.arange(1200))


def test_iid_sizes_differ_by_one_at_most():
    assert sorted(len(share) for share in iid(DATA, 7, seed=0)) == [171, 171, 171, 171, 172, 172, 172]


def test_iid_clients_have_all_classes_although_the_labels_are_sorted():
    assert min(np.bincount(LABELS[share], minlength=10).min() / len(share) for share in iid(DATA, 5, seed=0)) > 0.05


def test_every_sample_goes_to_exactly_one_client_and_the_seed_decides_to_which():
    first, again, other = (iid(DATA, 5, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(np.sort(np.concatenate(first)), np.arange(1200))
    assert all(map(np.array_equal, first, again))
    assert not any(np.array_equal(np.sort(one), np.sort(two)) for one, two in zip(first, other, strict=True))
