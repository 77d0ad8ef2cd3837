"""Labelled samples in memory: what a client trains on and what a data source returns."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedfuse.errors import ConfigurationError


# Compared by identity (eq=False): comparing tensors gives tensors, not a truth value.
@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs and their labels.

    Attributes
    ----------
    inputs : Tensor
        ``[n, *shape]``, floating point (data sources give float32).
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
        if not self.inputs.is_floating_point():
            raise ConfigurationError(f"Inputs are {self.inputs.dtype}; they must be floating point.")
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
        """Cast the inputs; labels stay int64."""
        return Samples(self.inputs.to(dtype), self.labels)


@dataclass(frozen=True, eq=False)
class LabelledData:
    """All samples of a data source, before they are shared out among clients.

    Attributes
    ----------
    samples : Samples
        With labels in ``0 .. len(class_names) - 1``.
    class_names : tuple[str, ...]
        The name of each label.

    Raises
    ------
    ConfigurationError
        If a label has no class name.
    """

    samples: Samples
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        labels = self.samples.labels
        nameless = labels[(labels < 0) | (labels >= len(self.class_names))]
        if len(nameless):
            raise ConfigurationError(
                f"Label {int(nameless[0])} has no class name; "
                f"{len(self.class_names)} class names allow 0 to {len(self.class_names) - 1}."
            )
