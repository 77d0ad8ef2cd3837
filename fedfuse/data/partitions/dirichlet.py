"""A label mix for each client, drawn from a Dirichlet distribution."""

import math

import numpy as np
from numpy.typing import NDArray

from fedfuse.data.partitions.sharing import check_enough, flower_partitioners, share_out
from fedfuse.data.samples import Population
from fedfuse.errors import ConfigurationError
from fedfuse.randomness import derive

# DirichletPartitioner draws 11 times before it gives up. On the digits, with alpha 0.05 and 10 clients of at
# least 20 samples, 1 in 30 does, so this many in a row give up only where the values cannot work.
DIRICHLET_PARTITIONERS = 10


def dirichlet(
    population: Population,
    num_clients: int,
    seed: int,
    alpha: float = 0.5,
    min_samples: int = 10,
    self_balancing: bool = True,
) -> list[NDArray[np.int64]]:
    """Give every client its own label mix: each class is shared out in proportions drawn from a Dirichlet.

    Parameters
    ----------
    population : Population
        The samples to share out.
    num_clients : int
        How many clients share the samples.
    seed : int
        The seed of the run.
    alpha : float
        The concentration. Small means that a client has few classes, large that all clients are alike.
    min_samples : int
        The fewest samples a client may have; proportions are drawn again until each has them.
    self_balancing : bool
        Give no more samples to a client that already has more than the average.

    Returns
    -------
    list[NDArray[np.int64]]
        For each client the positions of its samples.

    Raises
    ------
    ConfigurationError
        If ``alpha`` is not positive, or no draw gives each client ``min_samples`` samples.

    Notes
    -----
    Source: M. Yurochkin et al., "Bayesian Nonparametric Federated Learning of Neural Networks", ICML 2019.
    """
    check_enough(len(population), num_clients, min_samples)
    if not 0 < alpha < math.inf:
        raise ConfigurationError(f"partition.alpha={alpha} must be a positive number, for example 0.5.")
    for attempt in range(DIRICHLET_PARTITIONERS):
        partitioner = flower_partitioners().DirichletPartitioner(
            num_partitions=num_clients,
            partition_by="label",
            alpha=float(alpha),
            min_partition_size=min_samples,
            self_balancing=self_balancing,
            shuffle=False,
            seed=derive(seed, f"dirichlet proportions {attempt}"),
        )
        try:
            return share_out(partitioner, population.labels, seed)
        except (ValueError, FloatingPointError):
            continue
    raise ConfigurationError(
        f"No Dirichlet draw with partition.alpha={alpha} gives each of {num_clients} clients at least "
        f"partition.min_samples={min_samples} of {len(population)} samples; "
        f"raise alpha, lower min_samples or take fewer clients."
    )
