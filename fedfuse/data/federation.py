"""The federation of a run: what each client holds, what all hold, and what nobody trains on."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedfuse.configuration import OFFICIAL, SplitSettings
from fedfuse.data.samples import LabelledData, Population, Samples, as_numbers
from fedfuse.data.saved_split import SavedSplit, read_split
from fedfuse.data.split import split
from fedfuse.data.transfer_sets import Chosen, domains_of
from fedfuse.errors import ConfigurationError
from fedfuse.randomness import numpy_generator

Partition = Callable[[Population], list[NDArray[np.int64]]]
MakeTransfer = Callable[[NDArray[np.int64]], Chosen]
NO_ROWS = np.empty(0, dtype=np.int64)


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
        ``[M, *shape]``, floating point.
    domains : Tensor or None
        int64 ``[M]``, the domain of each sample, where its source has domains: 0, 1, ... without a gap.

    Raises
    ------
    ConfigurationError
        If domains are not one for each sample, or numbered otherwise.
    """

    inputs: Tensor
    domains: Tensor | None = None

    def __post_init__(self) -> None:
        if self.domains is None:
            return
        if self.domains.dtype != torch.int64 or self.domains.shape != (len(self),):
            raise ConfigurationError(
                f"Domains are {self.domains.dtype} of shape {list(self.domains.shape)}; they must be torch.int64, one "
                f"for each of the {len(self)} transfer samples."
            )
        for place, number in enumerate(np.unique(self.domains.numpy())):
            if number != place:
                raise ConfigurationError(
                    f"Domains of transfer samples must be numbered 0, 1, ... without a gap; {number} stands in place "
                    f"of {place}."
                )

    def __len__(self) -> int:
        return len(self.inputs)

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that two parties compare to know that they hold the same transfer set.

        Domains count, where there are any: clients who think differently of them would learn from other samples.
        """
        inputs = self.inputs.contiguous()
        hashed = hashlib.sha256(f"{inputs.dtype} {list(inputs.shape)}".encode())
        hashed.update(inputs.view(torch.uint8).numpy().tobytes())
        if self.domains is not None:
            hashed.update(b"domains" + self.domains.numpy().tobytes())
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
        return Shared(replace(self.transfer, inputs=self.transfer.inputs.to(dtype)), test, self.class_names)


@dataclass(frozen=True, eq=False)
class Dealt:
    """A data source, shared out.

    Attributes
    ----------
    shared : Shared
        What everybody holds.
    data : LabelledData
        The source.
    server_labels : Tensor or None
        int64 ``[L]``: the labels of the first L transfer samples, where the server alone is to know some.
    split : SavedSplit
        Which rows of the source are whose.
    num_unused : int
        How many samples nobody has: those that a partition leaves over, and of recordings those that overlap with
        another set.
    """

    shared: Shared
    data: LabelledData
    split: SavedSplit
    num_unused: int
    server_labels: Tensor | None = None

    @property
    def clients(self) -> tuple[LabelledData, ...]:
        """All samples of each client, by client id; copied each time they are asked for."""
        return tuple(self.data.select(rows) for rows in self.split.clients)


@dataclass(frozen=True, eq=False)
class Federation:
    """All data of a run.

    Attributes
    ----------
    shared : Shared
        What everybody holds.
    clients : tuple[ClientData, ...]
        What each client holds, by client id.
    server_labels : Tensor or None
        int64 ``[L]``: the labels of the first L transfer samples, where the server alone is to know some.
    num_unused : int
        How many samples nobody has.
    """

    shared: Shared
    clients: tuple[ClientData, ...]
    server_labels: Tensor | None = None
    num_unused: int = 0

    def label_counts(self) -> NDArray[np.int64]:
        """Count each client's samples of each class, over its three sets: int64 ``[N, C]``."""
        labels = [
            torch.cat([client.train.labels, client.validation.labels, client.test.labels]) for client in self.clients
        ]
        counts: NDArray[np.int64] = torch.stack(
            [torch.bincount(one, minlength=self.shared.num_classes) for one in labels]
        ).numpy()
        return counts


def deal(
    data: LabelledData,
    partition: Partition,
    make_transfer: MakeTransfer | TransferSet,
    settings: SplitSettings,
    seed: int,
    num_labelled: int = 0,
) -> Dealt:
    """Share a data source out: the global test set first, then the transfer set, then the clients.

    Parameters
    ----------
    data : LabelledData
        All samples.
    partition : Partition
        Takes what is known of the samples left for the clients; returns, for each client, positions in them.
    make_transfer : MakeTransfer or TransferSet
        Chooses what everybody holds; or a transfer set from elsewhere, for which no sample of the data is given away.
    settings : SplitSettings
        How many samples are used, how much is for testing, and the file of a split made before, if any: its global
        test and transfer sets are used where it has them; where not, they are drawn from the rows that it gives to
        nobody.
    seed : int
        The seed of the run; one seed gives one federation.
    num_labelled : int
        How many transfer samples the server knows the labels of.

    Returns
    -------
    Dealt
        No sample is in two of its sets, and those of a set are in random order. Samples in no set are counted.

    Raises
    ------
    ConfigurationError
        If there are too few samples, if a transfer set from elsewhere has samples of another shape, or if the
        partition gives a sample to two clients.
    """
    saved = None if settings.path is None else read_split(Path(settings.path), len(data.samples))
    used = _used(data, settings, seed)
    free = used if saved is None else saved.unassigned(used)
    test, free = _global_test(data, free, settings, seed, saved)

    if isinstance(make_transfer, TransferSet):
        check_shape(make_transfer, data.samples)
        chosen = Chosen(make_transfer.inputs, kept=free, domains=make_transfer.domains)
    elif saved is not None and saved.transfer is not None:
        chosen = Chosen(data.samples.inputs[saved.transfer], kept=free, rows=saved.transfer)
    else:
        chosen = make_transfer(free)

    private = chosen.kept if saved is None else np.concatenate([NO_ROWS, *saved.clients])
    shares = partition(data.population.select(private))
    given = np.concatenate([NO_ROWS, *shares])
    if len(np.unique(given)) != len(given) or not np.isin(given, np.arange(len(private))).all():
        raise ConfigurationError(f"The partition gives one of the {len(private)} samples to two clients, or one more.")

    whose = SavedSplit(tuple(private[share] for share in shares), global_test=test, transfer=chosen.rows)
    in_transfer = 0 if chosen.rows is None else len(chosen.rows)
    transfer = transfer_set(chosen.inputs, domains_of(chosen, data))
    return Dealt(
        shared=Shared(transfer, data.samples.select(test), data.class_names),
        data=data,
        split=whose,
        num_unused=len(used) - len(test) - in_transfer - len(given),
        server_labels=_server_labels(data, chosen, num_labelled),
    )


def _server_labels(data: LabelledData, chosen: Chosen, number: int) -> Tensor | None:
    if number == 0:
        return None
    if chosen.rows is None:
        raise ConfigurationError(
            f"transfer.labelled={number}, but the labels of this transfer set are not known: it must be of the "
            "clients' own data source."
        )
    if number > len(chosen.rows):
        raise ConfigurationError(
            f"transfer.labelled={number} must be at most {len(chosen.rows)}, the transfer set's size."
        )
    return data.samples.labels[torch.from_numpy(chosen.rows[:number])]


def transfer_set(inputs: Tensor, domains: Tensor | None = None) -> TransferSet:
    """Make a transfer set of inputs as a data source stores them, and their domains, where they have any."""
    return TransferSet(as_numbers(inputs, inputs.dtype if inputs.is_floating_point() else torch.float32), domains)


def _used(data: LabelledData, settings: SplitSettings, seed: int) -> NDArray[np.int64]:
    """Take all rows, or as many as are wanted, with the label mix of all."""
    population = data.population
    if settings.samples is None or settings.path is not None:
        return population.positions
    if settings.samples > len(population):
        raise ConfigurationError(f"split.samples={settings.samples}, but the data has {len(population)} samples.")
    share = settings.samples / len(population)
    return np.sort(split(population, (share, 1 - share), numpy_generator(seed, "used samples"))[0])


def _global_test(
    data: LabelledData, free: NDArray[np.int64], settings: SplitSettings, seed: int, saved: SavedSplit | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose the rows that test everybody, and those that are left and too far from them to matter."""
    if saved is not None and saved.global_test is not None:
        return saved.global_test, free
    if settings.global_test == OFFICIAL:
        if data.official_test is None:
            raise ConfigurationError(
                "split.global_test=official, but the data source names no test samples; give a share."
            )
        official = data.official_test[free]
        return free[official], free[~official]
    share = float(settings.global_test)
    left, test = split(data.population.select(free), (1 - share, share), numpy_generator(seed, "global test"))
    if not len(test):
        raise ConfigurationError(
            f"The global test set is empty: {len(free)} samples are too few for global_test={settings.global_test}."
        )
    return free[test], free[left]


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


def split_client(client: int, data: LabelledData, fractions: SplitSettings, seed: int) -> ClientData:
    """Split the samples of one client into its three sets, each with its label mix.

    Parameters
    ----------
    client : int
        The client's id, which its random draws follow from.
    data : LabelledData
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
    train, validation, test = _split_positions(client, data.population, fractions, seed)
    samples = data.samples
    return ClientData(samples.select(train), samples.select(validation), samples.select(test))


def federate(dealt: Dealt, fractions: SplitSettings, seed: int) -> Federation:
    """Split the samples of every client; for parameters and errors see `split_client`.

    The samples of all clients are copied once, into one tensor that each of their sets is a view of: thousands of
    clients with tensors of their own would cost far more than their samples do.
    """
    population = dealt.data.population
    sets = [
        rows[positions]
        for client, rows in enumerate(dealt.split.clients)
        for positions in _split_positions(client, population.select(rows), fractions, seed)
    ]
    sizes = [len(rows) for rows in sets]
    samples = dealt.data.samples.select(np.concatenate([NO_ROWS, *sets]))
    views = map(Samples, torch.split(samples.inputs, sizes), torch.split(samples.labels, sizes))
    return Federation(
        shared=dealt.shared,
        clients=tuple(map(ClientData, views, views, views)),
        server_labels=dealt.server_labels,
        num_unused=dealt.num_unused,
    )


def _split_positions(
    client: int, population: Population, fractions: SplitSettings, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Say which of a client's samples train it, validate it and test it."""
    train_fraction = 1 - fractions.validation - fractions.test
    train, validation, test = split(
        population,
        (train_fraction, fractions.validation, fractions.test),
        numpy_generator(seed, "client sets", client=client),
    )
    for name, positions in (("training", train), ("validation", validation), ("test", test)):
        if not len(positions):
            raise ConfigurationError(
                f"Client {client} has {len(population)} samples, which leaves it no {name} sample; "
                f"raise partition.min_samples, take fewer clients or change the fractions."
            )
    return train, validation, test
