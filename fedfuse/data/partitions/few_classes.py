"""Partitions in which a client has few classes, and clients with the same classes have equal shares of them."""

import numpy as np
from numpy.typing import NDArray

from fedfuse.data.partitions.sharing import check_enough, check_whole_number, flower_partitioners, share_out
from fedfuse.data.samples import Population
from fedfuse.errors import ConfigurationError
from fedfuse.randomness import derive

# Which clients share a class is drawn, so another draw can give a client with common classes only enough samples.
DRAWS = 10


def pathological(
    population: Population, num_clients: int, seed: int, classes_per_client: int = 2, min_samples: int = 10
) -> list[NDArray[np.int64]]:
    """Give every client the same number of classes; the clients that have a class share its samples equally.

    The first class of the clients goes round all classes in turn, the others are drawn.

    Parameters
    ----------
    population : Population
        The samples to share out.
    num_clients : int
        How many clients share the samples.
    seed : int
        The seed of the run.
    classes_per_client : int
        How many classes a client has, exactly.
    min_samples : int
        The fewest samples a client may have; classes are drawn again until each has them.

    Returns
    -------
    list[NDArray[np.int64]]
        For each client the positions of its samples. With at least as many clients as classes all samples are used;
        with fewer clients, those of the classes that no client drew are left over.

    Raises
    ------
    ConfigurationError
        If there are fewer classes than that, or no draw gives each client ``min_samples`` samples.

    Notes
    -----
    Source: Q. Li et al., "Federated Learning on Non-IID Data Silos: An Experimental Study", ICDE 2022.
    """
    check_enough(len(population), num_clients, min_samples)
    check_whole_number("partition.classes_per_client", classes_per_client)
    num_present = len(np.unique(population.labels))
    if classes_per_client > num_present:
        raise ConfigurationError(
            f"partition.classes_per_client={classes_per_client} must be at most {num_present}, the number of classes."
        )
    for attempt in range(DRAWS):
        partitioner = flower_partitioners().PathologicalPartitioner(
            num_partitions=num_clients,
            partition_by="label",
            num_classes_per_partition=classes_per_client,
            class_assignment_mode="first-deterministic",
            shuffle=True,
            seed=derive(seed, f"classes of clients {attempt}"),
        )
        try:
            shares = share_out(partitioner, population.labels, seed)
        except ValueError:  # a class has fewer samples than clients
            continue
        if min(map(len, shares)) >= min_samples:
            return shares
    raise ConfigurationError(
        f"No draw of partition.classes_per_client={classes_per_client} gives each of {num_clients} clients at least "
        f"partition.min_samples={min_samples} of {len(population)} samples; "
        f"lower min_samples, take fewer clients or more classes per client."
    )


def shards(
    population: Population, num_clients: int, seed: int, shards_per_client: int = 2, min_samples: int = 10
) -> list[NDArray[np.int64]]:
    """Sort the samples by class, cut them into shards of one size, and give every client the same number of shards.

    Parameters
    ----------
    population : Population
        The samples to share out.
    num_clients : int
        How many clients share the samples.
    seed : int
        The seed of the run.
    shards_per_client : int
        How many shards a client has. A shard is of one class, or of neighbouring ones where it reaches over a boundary.
    min_samples : int
        The fewest samples a client may have.

    Returns
    -------
    list[NDArray[np.int64]]
        For each client the positions of its samples. What is over when the samples are divided by the number of shards,
        so fewer samples than there are shards, is drawn at random and left over.

    Raises
    ------
    ConfigurationError
        If the shards are too small for ``min_samples``.

    Notes
    -----
    Source: B. McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS
    2017.
    """
    check_enough(len(population), num_clients, min_samples)
    check_whole_number("partition.shards_per_client", shards_per_client)
    num_shards = num_clients * shards_per_client
    shard_size = len(population) // num_shards
    if shard_size * shards_per_client < min_samples:
        raise ConfigurationError(
            f"{num_shards} shards of {len(population)} samples have {shard_size} each, which gives a client "
            f"{shard_size * shards_per_client} with partition.shards_per_client={shards_per_client}, and not "
            f"partition.min_samples={min_samples}; lower one of them or take fewer clients."
        )
    partitioner = flower_partitioners().ShardPartitioner(
        num_partitions=num_clients,
        partition_by="label",
        num_shards_per_partition=shards_per_client,
        shuffle=True,
        seed=derive(seed, "shards"),
    )
    # Given more, it would draw from more shards than it gives away, and always leave over samples of the last class.
    return share_out(partitioner, population.labels, seed, num_used=shard_size * num_shards)
