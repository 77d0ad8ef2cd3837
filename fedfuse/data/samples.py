"""Labelled samples in memory: what a client trains on and what a data source returns."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedfuse.errors import ConfigurationError

BRIGHTEST = 255


def as_numbers(inputs: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn inputs into what a model takes: pixels that are stored as bytes into numbers from 0 to 1, others cast."""
    return inputs.to(dtype).div_(BRIGHTEST) if inputs.dtype == torch.uint8 else inputs.to(dtype)


# Compared by identity (eq=False): comparing tensors gives tensors, not a truth value.
@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs and their labels.

    Attributes
    ----------
    inputs : Tensor
        ``[n, *shape]``, floating point, or uint8: pixels, which `as_numbers` scales when they are used. They take a
        quarter of the memory.
    labels : Tensor
        int64 ``[n]``.

    Raises
    ------
    ConfigurationError
        If the two differ in length or have other dtypes.
    """

    inputs: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if not (self.inputs.is_floating_point() or self.inputs.dtype == torch.uint8):
            raise ConfigurationError(
                f"Inputs are {self.inputs.dtype}; they must be floating point, or pixels in uint8."
            )
        if self.labels.dtype != torch.int64:
            raise ConfigurationError(f"Labels are {self.labels.dtype}; they must be torch.int64.")
        if self.labels.ndim != 1 or self.inputs.shape[:1] != self.labels.shape:
            raise ConfigurationError(
                f"Inputs of shape {list(self.inputs.shape)} do not fit labels of shape "
                f"{list(self.labels.shape)}; both need the same first dimension, and labels no other."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor | NDArray[np.int64]) -> "Samples":
        """Copy the samples at the given positions, in that order."""
        positions = torch.as_tensor(indices)
        return Samples(self.inputs[positions], self.labels[positions])

    def to(self, dtype: torch.dtype) -> "Samples":
        """Cast the inputs, unless they are bytes; labels stay int64."""
        return self if self.inputs.dtype == torch.uint8 else Samples(self.inputs.to(dtype), self.labels)


@dataclass(frozen=True, eq=False)
class Groups:
    """Which group every sample belongs to, for example the person that it is from.

    Attributes
    ----------
    names : tuple[str, ...]
        The name of each group.
    members : NDArray[np.int64]
        ``[n]``, the number of each sample's group.

    Raises
    ------
    ConfigurationError
        If a group has no name.
    """

    names: tuple[str, ...]
    members: NDArray[np.int64]

    def __post_init__(self) -> None:
        if len(self.members) and not 0 <= self.members.min() <= self.members.max() < len(self.names):
            raise ConfigurationError(
                f"Groups go from {self.members.min()} to {self.members.max()}; {len(self.names)} names allow 0 to "
                f"{len(self.names) - 1}."
            )

    def select(self, positions: NDArray[np.int64]) -> "Groups":
        """Take the groups of the samples at the given positions; all names are kept."""
        return replace(self, members=self.members[positions])


@dataclass(frozen=True, eq=False)
class Population:
    """What is known of samples beside their inputs: all that may decide who gets which.

    Attributes
    ----------
    labels : NDArray[np.int64]
        ``[n]``.
    num_classes : int
        How many classes the labels have.
    positions : NDArray[np.int64]
        ``[n]``, where each sample stands in its data source.
    natural_clients : Groups or None
        Whom each sample is from, for example a person, a phone or a hospital, where the source says so.
    domains : Groups or None
        The domain of each sample, where there are any.
    order : NDArray[np.int64] or None
        ``[n]``, for samples cut from a recording: two whose numbers differ by one overlap or follow each other, so they
        must not stand on both sides of a split.
    """

    labels: NDArray[np.int64]
    num_classes: int
    positions: NDArray[np.int64]
    natural_clients: Groups | None = None
    domains: Groups | None = None
    order: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, positions: NDArray[np.int64]) -> "Population":
        """Take the samples at the given positions, in that order."""
        return Population(
            labels=self.labels[positions],
            num_classes=self.num_classes,
            positions=self.positions[positions],
            natural_clients=None if self.natural_clients is None else self.natural_clients.select(positions),
            domains=None if self.domains is None else self.domains.select(positions),
            order=None if self.order is None else self.order[positions],
        )


@dataclass(frozen=True, eq=False)
class LabelledData:
    """All samples of a data source, before they are shared out among clients.

    Attributes
    ----------
    samples : Samples
        With labels in ``0 .. len(class_names) - 1``.
    class_names : tuple[str, ...]
        The name of each label.
    natural_clients, domains, order
        As in `Population`, where the source has them.
    official_test : NDArray[np.bool_] or None
        ``[n]``, which samples the source itself keeps for testing, where it says so.

    Raises
    ------
    ConfigurationError
        If a label has no class name, or if anything is not of one entry for each sample.
    """

    samples: Samples
    class_names: tuple[str, ...]
    natural_clients: Groups | None = None
    domains: Groups | None = None
    order: NDArray[np.int64] | None = None
    official_test: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        labels = self.samples.labels
        nameless = labels[(labels < 0) | (labels >= len(self.class_names))]
        if len(nameless):
            raise ConfigurationError(
                f"Label {int(nameless[0])} has no class name; "
                f"{len(self.class_names)} class names allow 0 to {len(self.class_names) - 1}."
            )
        for name, entries in (
            ("natural_clients", None if self.natural_clients is None else self.natural_clients.members),
            ("domains", None if self.domains is None else self.domains.members),
            ("order", self.order),
            ("official_test", self.official_test),
        ):
            if entries is not None and entries.shape != (len(labels),):
                raise ConfigurationError(f"{name} has shape {list(entries.shape)}; there are {len(labels)} samples.")

    def select(self, positions: NDArray[np.int64]) -> "LabelledData":
        """Copy the samples at the given positions, in that order."""
        return LabelledData(
            samples=self.samples.select(positions),
            class_names=self.class_names,
            natural_clients=None if self.natural_clients is None else self.natural_clients.select(positions),
            domains=None if self.domains is None else self.domains.select(positions),
            order=None if self.order is None else self.order[positions],
            official_test=None if self.official_test is None else self.official_test[positions],
        )

    @property
    def population(self) -> Population:
        """What is known of the samples beside their inputs."""
        return Population(
            labels=self.samples.labels.numpy(),
            num_classes=len(self.class_names),
            positions=np.arange(len(self.samples), dtype=np.int64),
            natural_clients=self.natural_clients,
            domains=self.domains,
            order=self.order,
        )
