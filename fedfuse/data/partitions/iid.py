"""All clients alike: samples are shared out at random."""

import numpy as np
from numpy.typing import NDArray

from fedfuse.data.partitions.sharing import check_enough, flower_partitioners, share_out
from fedfuse.data.samples import Population


def iid(population: Population, num_clients: int, seed: int, min_samples: int = 1) -> list[NDArray[np.int64]]:
    """Give every client the same number of samples (or one more), drawn at random.

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
        For each client the positions of its samples.

    Raises
    ------
    ConfigurationError
        If there are too few samples for so many clients.
    """
    check_enough(len(population), num_clients, min_samples)
    return share_out(flower_partitioners().IidPartitioner(num_clients), population.labels, seed)
