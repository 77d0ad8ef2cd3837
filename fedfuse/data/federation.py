"""The federation of a run: what each client holds, what all hold, and what nobody trains on."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedfuse.configuration import SplitSettings
from fedfuse.data.samples import LabelledData, Samples
from fedfuse.errors import ConfigurationError
from fedfuse.randomness import numpy_generator

Partition = Callable[[NDArray[np.int64]], list[NDArray[np.int64]]]


@dataclass(frozen=True, eq=False)
class ClientData:
    """The private samples of one client; all three sets have its own label mix."""

    train: Samples
    validation: Samples
    test: Samples

    def to(self, dtype: torch.dtype) -> "ClientData":
        """Cast the inputs."""
        return ClientData(self.train.to(dtype), self.validation.to(dtype), self.test.to(dtype))


@dataclass(frozen=True, eq=False)
class TransferSet:
    """The samples that everybody holds and answers, without labels.

    Attributes
    ----------
    inputs : Tensor
        ``[M, *shape]``.
    """

    inputs: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that two parties compare to know that they hold the same transfer set."""
        inputs = self.inputs.contiguous()
        hashed = hashlib.sha256(f"{inputs.dtype} {list(inputs.shape)}".encode())
        hashed.update(inputs.view(torch.uint8).numpy().tobytes())
        return hashed.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Shared:
    """What everybody holds.

    Attributes
    ----------
    transfer : TransferSet
        What all clients answer.
    global_test : Samples or None
        Samples of the whole population that no client trains on, where there are any.
    class_names : tuple[str, ...]
        The name of each label.
    """

    transfer: TransferSet
    global_test: Samples | None
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """How many classes the labels have."""
        return len(self.class_names)

    def to(self, dtype: torch.dtype) -> "Shared":
        """Cast the inputs."""
        test = None if self.global_test is None else self.global_test.to(dtype)
        return Shared(TransferSet(self.transfer.inputs.to(dtype)), test, self.class_names)


@dataclass(frozen=True, eq=False)
class Dealt:
    """A data source, shared out: what everybody holds, and all samples of each client, by client id."""

    shared: Shared
    clients: tuple[Samples, ...]


@dataclass(frozen=True, eq=False)
class Federation:
    """All data of a run: what everybody holds, and what each client holds, by client id."""

    shared: Shared
    clients: tuple[ClientData, ...]

    def label_counts(self) -> NDArray[np.int64]:
        """Count each client's samples of each class, over its three sets: int64 ``[N, C]``."""
        labels = [
            torch.cat([client.train.labels, client.validation.labels, client.test.labels]) for client in self.clients
        ]
        counts: NDArray[np.int64] = torch.stack(
            [torch.bincount(one, minlength=self.shared.num_classes) for one in labels]
        ).numpy()
        return counts


def split_by_label(
    labels: NDArray[np.int64], fractions: Sequence[float], generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Split samples into parts that all have the label mix of the whole.

    Of each class a part gets its exact share, rounded down or up. The samples that rounding leaves over go to
    the largest remainders, summed over the classes so far, so that the size of every part is right too. A
    class with a single sample goes to the first part, unless the size of a part would suffer.

    Parameters
    ----------
    labels : NDArray[np.int64]
        ``[n]``, the label of each sample.
    fractions : Sequence[float]
        The share of each part; their sum is 1.
    generator : np.random.Generator
        Draws which samples go where.

    Returns
    -------
    list[NDArray[np.int64]]
        For each part the positions of its samples in ``labels``, in random order. Every sample is in exactly
        one part. With two or three parts, the size of each is less than one sample from ``fraction * n``.

    Raises
    ------
    ConfigurationError
        If a fraction is negative or their sum is not 1.
    """
    shares = np.asarray(fractions, dtype=np.float64)
    if (shares < 0).any() or not np.isclose(shares.sum(), 1):
        raise ConfigurationError(f"The fractions {list(fractions)} of a split must be at least 0 and sum to 1.")

    classes, sizes = np.unique(labels, return_counts=True)
    # Small classes first, while no part lacks anything yet; equal ones in random order, to favour no label.
    turns = generator.permutation(len(classes))
    turns = turns[np.argsort(sizes[turns], kind="stable")]

    parts: list[list[NDArray[np.int64]]] = [[] for _ in shares]
    lacking = np.zeros(len(shares))
    for turn in turns:
        # Rounded, because floating point puts shares that are whole numbers a hair above or below them.
        exact = np.round(sizes[turn] * shares, 9)
        counts = np.floor(exact).astype(np.int64)
        lacking += exact - counts
        left_over = sizes[turn] - counts.sum()
        receivers = np.argsort(-np.where(exact > counts, lacking, -np.inf), kind="stable")
        if sizes[turn] == 1 and np.abs(lacking - np.eye(len(shares))[0]).max() < 1 - 1e-6:
            receivers = np.arange(len(shares))
        counts[receivers[:left_over]] += 1
        lacking[receivers[:left_over]] -= 1

        members = generator.permutation(np.flatnonzero(labels == classes[turn]))
        for part, chosen in zip(parts, np.split(members, np.cumsum(counts)[:-1]), strict=True):
            part.append(chosen)
    nothing = np.empty(0, dtype=np.int64)
    return [generator.permutation(np.concatenate([nothing, *part])) for part in parts]


def deal(
    data: LabelledData, partition: Partition, transfer: int | TransferSet, fractions: SplitSettings, seed: int
) -> Dealt:
    """Share a data source out: the global test set first, then the transfer set, then the clients.

    Parameters
    ----------
    data : LabelledData
        All samples.
    partition : Partition
        Takes the labels of the samples left for the clients; returns, for each client, positions in them.
    transfer : int or TransferSet
        How many samples everybody holds: they have the data's label mix, and their labels are thrown away. Or a
        transfer set from elsewhere, for which no sample of the data is given away.
    fractions : SplitSettings
        How much is for testing.
    seed : int
        The seed of the run; one seed gives one federation.

    Returns
    -------
    Dealt
        No sample is in two of its sets, none is lost, and those of a set are in random order.

    Raises
    ------
    ConfigurationError
        If there are too few samples for the transfer set, if one from elsewhere has samples of another shape, or
        if the partition does not give every sample to exactly one client.
    """
    labels = data.samples.labels.numpy()

    remaining, global_test = split_by_label(
        labels, (1 - fractions.global_test, fractions.global_test), numpy_generator(seed, "global test")
    )
    if not len(global_test):
        raise ConfigurationError(
            f"The global test set is empty: {len(labels)} samples are too few for global_test={fractions.global_test}."
        )

    if isinstance(transfer, TransferSet):
        check_shape(transfer, data.samples)
        private, transfer_set = remaining, transfer
    else:
        kept, given = _hold_out(labels[remaining], transfer, seed)
        private, transfer_set = remaining[kept], TransferSet(data.samples.select(remaining[given]).inputs)

    shares = partition(labels[private])
    if not np.array_equal(np.sort(np.concatenate(shares)), np.arange(len(private))):
        raise ConfigurationError(
            f"The partition does not give each of the {len(private)} samples to exactly one client."
        )
    return Dealt(
        shared=Shared(transfer_set, data.samples.select(global_test), data.class_names),
        clients=tuple(data.samples.select(private[share]) for share in shares),
    )


def check_shape(transfer: TransferSet, samples: Samples) -> None:
    """Refuse a transfer set whose samples have another shape than a client's.

    Raises
    ------
    ConfigurationError
        With both shapes.
    """
    shape, own = list(transfer.inputs.shape[1:]), list(samples.inputs.shape[1:])
    if shape != own:
        raise ConfigurationError(f"The samples of the transfer set are of shape {shape}, those of the data of {own}.")


def split_client(client: int, samples: Samples, fractions: SplitSettings, seed: int) -> ClientData:
    """Split the samples of one client into its three sets, each with its label mix.

    Parameters
    ----------
    client : int
        The client's id, which its random draws follow from.
    samples : Samples
        All that it has.
    fractions : SplitSettings
        How much is for validation and for testing.
    seed : int
        The seed of the run.

    Raises
    ------
    ConfigurationError
        If one of the sets would be empty.
    """
    train_fraction = 1 - fractions.validation - fractions.test
    train, validation, test = split_by_label(
        samples.labels.numpy(),
        (train_fraction, fractions.validation, fractions.test),
        numpy_generator(seed, "client sets", client=client),
    )
    for name, positions in (("training", train), ("validation", validation), ("test", test)):
        if not len(positions):
            raise ConfigurationError(
                f"Client {client} has {len(samples)} samples, which leaves it no {name} sample; "
                f"raise partition.min_samples, take fewer clients or change the fractions."
            )
    return ClientData(samples.select(train), samples.select(validation), samples.select(test))


def federate(dealt: Dealt, fractions: SplitSettings, seed: int) -> Federation:
    """Split the samples of every client; for parameters and errors see `split_client`."""
    return Federation(
        shared=dealt.shared,
        clients=tuple(split_client(client, samples, fractions, seed) for client, samples in enumerate(dealt.clients)),
    )


def _hold_out(labels: NDArray[np.int64], size: int, seed: int) -> list[NDArray[np.int64]]:
    """Choose the positions that clients keep, and those of the transfer set."""
    if not 1 <= size < len(labels):
        raise ConfigurationError(
            f"transfer.size={size} must be at least 1 and less than {len(labels)}, "
            f"the number of samples that are not in the global test set."
        )
    share = size / len(labels)
    return split_by_label(labels, (1 - share, share), numpy_generator(seed, "transfer set"))
