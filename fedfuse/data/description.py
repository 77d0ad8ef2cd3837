"""What can be said in numbers of a data source and of how it is shared out, without training anything."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedfuse.data.federation import Dealt
from fedfuse.data.samples import Groups, LabelledData
from fedfuse.randomness import numpy_generator

# So many clients have two million pairs, which take a second or two.
MOST_CLIENTS_COMPARED = 2000


@dataclass(frozen=True)
class Range:
    """The smallest, the middle and the largest of some numbers."""

    min: float
    median: float
    max: float


@dataclass(frozen=True, eq=False)
class Description:
    """A data source and how it is shared out.

    Attributes
    ----------
    num_samples : int
        In the source.
    shape : tuple[int, ...]
        Of one sample.
    dtype : str
        Of the inputs, as the source stores them.
    classes : Mapping[str, int]
        How many samples of the source each class has.
    natural_clients : Range or None
        How many samples the natural clients of the source have, where it names any.
    num_natural_clients : int or None
        How many of them there are.
    domains : Mapping[str, int] or None
        How many samples of the source each domain has, where there are any.
    num_transfer, num_global_test, num_client_samples : int
        The sizes of the transfer set, of the global test set, and of all clients together.
    transfer_from_source : bool
        Whether the transfer set consists of samples of the source.
    num_left_out : int
        How many samples ``split.samples`` does not use.
    num_unused : int
        How many of the others nobody has.
    label_counts : NDArray[np.int64]
        ``[clients, classes]``, over the training, validation and test set of each client.
    client_sizes : Range
        How many samples clients have.
    classes_per_client : Range
        How many classes clients have.
    label_entropy : Range
        The entropy of the clients' label mixes, in bits: 0 for a client with one class.
    divergence : float or None
        The Jensen-Shannon divergence of two clients' label mixes, in bits, on average over all pairs: 0 where all are
        alike, 1 where no two share a class. None for one client.
    num_clients_compared : int
        How many clients the pairs are of: all, or 2,000 drawn at random.
    classes_of_nobody : tuple[str, ...]
        The classes that no client has.
    neighbours_apart : int or None
        For samples cut from recordings, how many that overlap or follow each other are held by different clients.
    """

    num_samples: int
    shape: tuple[int, ...]
    dtype: str
    classes: Mapping[str, int]
    natural_clients: Range | None
    num_natural_clients: int | None
    domains: Mapping[str, int] | None
    num_transfer: int
    transfer_from_source: bool
    num_global_test: int
    num_client_samples: int
    num_left_out: int
    num_unused: int
    label_counts: NDArray[np.int64]
    client_sizes: Range
    classes_per_client: Range
    label_entropy: Range
    divergence: float | None
    num_clients_compared: int
    classes_of_nobody: tuple[str, ...]
    neighbours_apart: int | None


def describe_data(data: LabelledData, dealt: Dealt, seed: int) -> Description:
    """Describe a data source and how it is shared out.

    Parameters
    ----------
    data : LabelledData
        The source.
    dealt : Dealt
        What has been made of it.
    seed : int
        Draws the clients that are compared, where there are very many.
    """
    labels = data.samples.labels.numpy()
    num_classes = len(data.class_names)
    counts = np.stack([np.bincount(labels[rows], minlength=num_classes) for rows in dealt.split.clients])
    compared = np.arange(len(counts))
    if len(counts) > MOST_CLIENTS_COMPARED:
        compared = numpy_generator(seed, "clients compared").choice(len(counts), MOST_CLIENTS_COMPARED, replace=False)
    sizes = counts.sum(axis=1)
    mixes = label_mixes(counts)
    nobody = np.flatnonzero(counts.sum(axis=0) == 0)
    return Description(
        num_samples=len(labels),
        shape=tuple(data.samples.inputs.shape[1:]),
        dtype=str(data.samples.inputs.dtype).removeprefix("torch."),
        classes=_sizes_by_name(data.class_names, labels),
        natural_clients=None if data.natural_clients is None else _range(_sizes(data.natural_clients)),
        num_natural_clients=None if data.natural_clients is None else len(data.natural_clients.names),
        domains=None if data.domains is None else _sizes_by_name(data.domains.names, data.domains.members),
        num_transfer=len(dealt.shared.transfer),
        transfer_from_source=dealt.split.transfer is not None,
        num_global_test=0 if dealt.split.global_test is None else len(dealt.split.global_test),
        num_client_samples=int(sizes.sum()),
        num_left_out=len(labels) - len(dealt.split.assigned) - dealt.num_unused,
        num_unused=dealt.num_unused,
        label_counts=counts,
        client_sizes=_range(sizes),
        classes_per_client=_range((counts > 0).sum(axis=1)),
        label_entropy=_range(entropies(mixes)),
        divergence=mean_divergence(mixes[compared]) if len(counts) > 1 else None,
        num_clients_compared=len(compared),
        classes_of_nobody=tuple(data.class_names[label] for label in nobody),
        neighbours_apart=None if data.order is None else neighbours_apart(data.order, dealt.split.clients),
    )


def label_mixes(label_counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Divide the counts ``[clients, classes]`` of each client by their sum."""
    mixes: NDArray[np.float64] = label_counts / label_counts.sum(axis=1, keepdims=True)
    return mixes


def entropies(mixes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the entropy of each row of ``[n, classes]``, in bits."""
    logarithms = np.log2(mixes, out=np.zeros_like(mixes), where=mixes > 0)
    bits: NDArray[np.float64] = -(mixes * logarithms).sum(axis=1)
    return np.maximum(bits, 0)  # not -0, for one class


def mean_divergence(mixes: NDArray[np.float64]) -> float:
    """Average the Jensen-Shannon divergence, in bits, over all pairs of rows of ``[n, classes]``, n at least 2."""
    own = entropies(mixes)
    total = 0.0
    for row in range(len(mixes) - 1):
        others = slice(row + 1, None)
        total += (entropies((mixes[row] + mixes[others]) / 2) - (own[row] + own[others]) / 2).sum()
    return max(0.0, float(total / (len(mixes) * (len(mixes) - 1) / 2)))


def neighbours_apart(order: NDArray[np.int64], clients: tuple[NDArray[np.int64], ...]) -> int:
    """Count the samples that overlap or follow each other in time and that different clients hold.

    Parameters
    ----------
    order : NDArray[np.int64]
        ``[n]``, the number of each sample in time; neighbours differ by one.
    clients : tuple[NDArray[np.int64], ...]
        The rows of each client.
    """
    rows = np.concatenate(clients)
    owners = np.repeat(np.arange(len(clients)), [len(own) for own in clients])
    in_time = np.argsort(order[rows], kind="stable")
    adjacent = np.diff(order[rows][in_time]) == 1
    return int((adjacent & (np.diff(owners[in_time]) != 0)).sum())


def _range(numbers: NDArray[np.int64] | NDArray[np.float64]) -> Range:
    return Range(float(numbers.min()), float(np.median(numbers)), float(numbers.max()))


def _sizes(groups: Groups) -> NDArray[np.int64]:
    return np.bincount(groups.members, minlength=len(groups.names))


def _sizes_by_name(names: tuple[str, ...], members: NDArray[np.int64]) -> dict[str, int]:
    return dict(zip(names, np.bincount(members, minlength=len(names)).tolist(), strict=True))
