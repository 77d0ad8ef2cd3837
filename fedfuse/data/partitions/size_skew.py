"""Partitions in which clients have more samples the higher their id is, and all the same label mix, but for chance."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedfuse.data.partitions.sharing import check_enough, flower_partitioners, share_out
from fedfuse.data.samples import Population
from fedfuse.errors import ConfigurationError

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

LARGEST_GROWTH = 1000


def size_linear(population: Population, num_clients: int, seed: int, min_samples: int = 10) -> list[NDArray[np.int64]]:
    """Give client k the share (k + 1) / (1 + 2 + ... + num_clients) of the samples, drawn at random.

    Parameters
    ----------
    population : Population
        The samples to share out.
    num_clients : int
        How many clients share the samples.
    seed : int
        The seed of the run.
    min_samples : int
        The fewest samples a client may have.

    Returns
    -------
    list[NDArray[np.int64]]
        For each client the positions of its samples: its share rounded down; the last client has what that leaves over.

    Raises
    ------
    ConfigurationError
        If the first client would have too few.
    """
    check_enough(len(population), num_clients, min_samples)
    return _share_out(flower_partitioners().LinearPartitioner(num_clients), population, seed, min_samples, "")


def size_exponential(
    population: Population, num_clients: int, seed: int, growth: float = 1.3, min_samples: int = 10
) -> list[NDArray[np.int64]]:
    """Give every client so many times the samples of the one before, drawn at random.

    Parameters
    ----------
    population : Population
        The samples to share out.
    num_clients : int
        How many clients share the samples.
    seed : int
        The seed of the run.
    growth : float
        How many times as many samples a client has as the one before, from 1 to 1000. With Euler's number 2.718...
        client sizes are those of Flower's ``ExponentialPartitioner``, of which ten span four orders of magnitude.
    min_samples : int
        The fewest samples a client may have.

    Returns
    -------
    list[NDArray[np.int64]]
        For each client the positions of its samples: its share rounded down; the last client has what that leaves over.

    Raises
    ------
    ConfigurationError
        If ``growth`` is out of its range, or the first client would have too few.
    """
    check_enough(len(population), num_clients, min_samples)
    if not 1 <= growth <= LARGEST_GROWTH:
        raise ConfigurationError(f"partition.growth={growth} must be a number from 1 to {LARGEST_GROWTH}.")

    def sizes(ids: NDArray[np.float64]) -> NDArray[np.float64]:
        relative: NDArray[np.float64] = float(growth) ** (ids - num_clients)  # of the last client: 1, so none overflows
        return relative

    partitioner = flower_partitioners().IdToSizeFncPartitioner(num_clients, sizes)
    return _share_out(partitioner, population, seed, min_samples, f" with partition.growth={growth}")


def _share_out(
    partitioner: "Partitioner", population: Population, seed: int, min_samples: int, setting: str
) -> list[NDArray[np.int64]]:
    """Share out, unless the smallest client would have too few samples."""
    try:
        shares = share_out(partitioner, population.labels, seed)
    except ValueError:  # the smallest client would have none
        shares = []
    if not shares or min(map(len, shares)) < min_samples:
        smallest = min(map(len, shares), default=0)
        raise ConfigurationError(
            f"Of {len(population)} samples the first client would have {smallest}{setting}, and not "
            f"partition.min_samples={min_samples}; lower {'growth or ' if setting else ''}min_samples, or take fewer "
            f"clients."
        )
    return shares
