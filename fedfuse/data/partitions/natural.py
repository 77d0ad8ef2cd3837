"""The partition that the data brings along: every client is one whom samples are from, for example a person."""

import numpy as np
from numpy.typing import NDArray

from fedfuse.data.partitions.sharing import check_whole_number
from fedfuse.data.samples import Population
from fedfuse.errors import ConfigurationError
from fedfuse.randomness import numpy_generator


def natural(population: Population, num_clients: int, seed: int, min_samples: int = 10) -> list[NDArray[np.int64]]:
    """Make every client one of the data's natural clients, with all its samples.

    Parameters
    ----------
    population : Population
        The samples to share out, which say whom they are from.
    num_clients : int
        How many clients there are. Of more natural clients, so many are drawn.
    seed : int
        The seed of the run.
    min_samples : int
        The fewest samples a client may have; natural clients with fewer are not drawn.

    Returns
    -------
    list[NDArray[np.int64]]
        For each client the positions of its samples; clients are in the order of the data's natural clients. The
        samples of natural clients that were not drawn are left over.

    Raises
    ------
    ConfigurationError
        If the data names no natural clients, or fewer with enough samples than ``num_clients``.
    """
    check_whole_number("num_clients", num_clients)
    check_whole_number("partition.min_samples", min_samples)
    groups = population.natural_clients
    if groups is None:
        raise ConfigurationError(
            "The data source does not say whom its samples are from; take another partition, for example partition=iid."
        )
    sizes = np.bincount(groups.members, minlength=len(groups.names))
    eligible = np.flatnonzero(sizes >= min_samples)
    if num_clients > len(eligible):
        raise ConfigurationError(
            f"{len(eligible)} of the data's {len(groups.names)} natural clients have at least "
            f"partition.min_samples={min_samples} samples, and num_clients={num_clients}; "
            + (f"say num_clients={len(eligible)}." if len(eligible) else "lower min_samples.")
        )
    chosen = np.sort(numpy_generator(seed, "natural clients").choice(eligible, num_clients, replace=False))
    client_of_group = np.full(len(groups.names), num_clients)  # a number past the last client: left over
    client_of_group[chosen] = np.arange(num_clients)
    order = numpy_generator(seed, "partition order").permutation(len(population))
    clients = client_of_group[groups.members[order]]
    by_client = order[np.argsort(clients, kind="stable")]
    return np.split(by_client, np.cumsum(sizes[chosen]))[:num_clients]
