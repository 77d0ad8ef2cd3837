"""What partitions have in common: checks of how many samples there are, and how partitioners are run."""

import importlib
import sys
import warnings
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedfuse.errors import ConfigurationError
from fedfuse.randomness import numpy_generator

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner


def flower_partitioners() -> ModuleType:
    """Import Flower Datasets' partitioners.

    With them comes what draws plots, which takes as long to import as all else together: it is loaded when it is used.
    """
    for name in ("seaborn", "matplotlib.pyplot"):
        sys.modules.setdefault(name, _LoadedWhenUsed(name))
    return importlib.import_module("flwr_datasets.partitioner")


class _LoadedWhenUsed(ModuleType):
    """Stands for a module; not importlib's LazyLoader, whose modules are loaded by the next import statement."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 whatever the module has
        if name.startswith("__"):  # asked of every module there is, for example by inspect
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def check_whole_number(name: str, value: int) -> None:
    """Refuse what is no whole number of at least 1.

    Raises
    ------
    ConfigurationError
        With the name and the value.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{name}={value} must be a whole number of at least 1.")


def check_enough(num_samples: int, num_clients: int, min_samples: int) -> None:
    """Refuse to share samples out among so many clients that they cannot all have enough.

    Raises
    ------
    ConfigurationError
        Says what to change.
    """
    check_whole_number("num_clients", num_clients)
    check_whole_number("partition.min_samples", min_samples)
    if num_clients * min_samples > num_samples:
        raise ConfigurationError(
            f"{num_clients} clients of at least partition.min_samples={min_samples} need "
            f"{num_clients * min_samples} samples and there are {num_samples}; "
            f"take fewer clients or lower min_samples."
        )


def share_out(
    partitioner: "Partitioner", labels: NDArray[np.int64], seed: int, num_used: int | None = None
) -> list[NDArray[np.int64]]:
    """Run a partitioner over the samples in random order, because it cuts what it is given into runs.

    Parameters
    ----------
    partitioner : Partitioner
        Of Flower Datasets; labels are in the column ``label``.
    labels : NDArray[np.int64]
        ``[n]``.
    seed : int
        Draws the order.
    num_used : int, optional
        How many samples, drawn at random, are shared out; None shares out all.

    Returns
    -------
    list[NDArray[np.int64]]
        For each client the positions of its samples.

    Raises
    ------
    ValueError, FloatingPointError
        If the partitioner cannot do it.
    """
    from datasets import Dataset

    order = numpy_generator(seed, "partition order").permutation(len(labels))[:num_used]
    partitioner.dataset = Dataset.from_dict({"label": labels[order], "index": order})
    # Each draw that is made again warns, and the error says it better. Where all clients that drew a share of
    # a class are full already, DirichletPartitioner divides 0 by 0 and gives the class to the last client.
    with warnings.catch_warnings(), np.errstate(divide="raise", invalid="raise"):
        warnings.simplefilter("ignore")
        return [
            np.asarray(partitioner.load_partition(client)["index"][:], dtype=np.int64)
            for client in range(partitioner.num_partitions)
        ]
