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
class Federation:
    """All data of a run.

    Attributes
    ----------
    clients : tuple[ClientData, ...]
        What each client holds, by client id.
    transfer : TransferSet
        What everybody holds.
    global_test : Samples
        Samples of the whole population that no client holds.
    class_names : tuple[str, ...]
        The name of each label.
    """

    clients: tuple[ClientData, ...]
    transfer: TransferSet
    global_test: Samples
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """How many classes the labels have."""
        return len(self.class_names)

    def label_counts(self) -> NDArray[np.int64]:
        """Count each client's samples of each class, over its three sets: int64 ``[N, C]``."""
        labels = [
            torch.cat([client.train.labels, client.validation.labels, client.test.labels]) for client in self.clients
        ]
        counts: NDArray[np.int64] = torch.stack(
            [torch.bincount(one, minlength=self.num_classes) for one in labels]
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


def federate(
    data: LabelledData, partition: Partition, transfer_size: int, fractions: SplitSettings, seed: int
) -> Federation:
    """Share a data source out: the global test set first, then the transfer set, then the clients.

    Parameters
    ----------
    data : LabelledData
        All samples.
    partition : Partition
        Takes the labels of the samples left for the clients; returns, for each client, positions in them.
    transfer_size : int
        How many samples everybody holds. They have the data's label mix; their labels are thrown away.
    fractions : SplitSettings
        How much is for testing.
    seed : int
        The seed of the run; one seed gives one federation.

    Returns
    -------
    Federation
        No sample is in two of its sets, none is lost, and those of a set are in random order.

    Raises
    ------
    ConfigurationError
        If there are too few samples for the transfer set or for a client's three sets, or if the partition
        does not give every sample to exactly one client.
    """
    labels = data.samples.labels.numpy()

    remaining, global_test = split_by_label(
        labels, (1 - fractions.global_test, fractions.global_test), numpy_generator(seed, "global test")
    )
    if not len(global_test):
        raise ConfigurationError(
            f"The global test set is empty: {len(labels)} samples are too few for global_test={fractions.global_test}."
        )

    if not 1 <= transfer_size < len(remaining):
        raise ConfigurationError(
            f"transfer.size={transfer_size} must be at least 1 and less than {len(remaining)}, "
            f"the number of samples that are not in the global test set."
        )
    transfer_fraction = transfer_size / len(remaining)
    kept, given = split_by_label(
        labels[remaining], (1 - transfer_fraction, transfer_fraction), numpy_generator(seed, "transfer set")
    )
    private, transfer = remaining[kept], remaining[given]

    shares = partition(labels[private])
    if not np.array_equal(np.sort(np.concatenate(shares)), np.arange(len(private))):
        raise ConfigurationError(
            f"The partition does not give each of the {len(private)} samples to exactly one client."
        )
    return Federation(
        clients=tuple(
            _split_client(
                client,
                data.samples.select(private[share]),
                fractions,
                numpy_generator(seed, "client sets", client=client),
            )
            for client, share in enumerate(shares)
        ),
        transfer=TransferSet(data.samples.select(transfer).inputs),
        global_test=data.samples.select(global_test),
        class_names=data.class_names,
    )


def _split_client(
    client: int, samples: Samples, fractions: SplitSettings, generator: np.random.Generator
) -> ClientData:
    train_fraction = 1 - fractions.validation - fractions.test
    train, validation, test = split_by_label(
        samples.labels.numpy(), (train_fraction, fractions.validation, fractions.test), generator
    )
    for name, positions in (("training", train), ("validation", validation), ("test", test)):
        if not len(positions):
            raise ConfigurationError(
                f"Client {client} has {len(samples)} samples, which leaves it no {name} sample; "
                f"raise partition.min_samples, take fewer clients or change the fractions."
            )
    return ClientData(samples.select(train), samples.select(validation), samples.select(test))
