"""Ways to share samples out among clients, by the partitioners of Flower Datasets.

A partition is a function of the labels that returns, for each client, the positions of its samples. Every
sample goes to exactly one client.
"""

import math
import warnings
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedfuse.errors import ConfigurationError
from fedfuse.randomness import derive, numpy_generator

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

# DirichletPartitioner draws 11 times before it gives up. On the digits, with alpha 0.05 and 10 clients of at
# least 20 samples, 1 in 30 does, so this many in a row give up only where the values cannot work.
DIRICHLET_PARTITIONERS = 10


def iid(labels: NDArray[np.int64], num_clients: int, seed: int, min_samples: int = 1) -> list[NDArray[np.int64]]:
    """Give every client the same number of samples (or one more), drawn at random.

    Parameters
    ----------
    labels : NDArray[np.int64]
        ``[n]``, the label of each sample.
    num_clients : int
        How many clients share the samples.
    seed : int
        The seed of the run.
    min_samples : int
        The fewest samples a client may have.

    Returns
    -------
    list[NDArray[np.int64]]
        For each client the positions of its samples in ``labels``.

    Raises
    ------
    ConfigurationError
        If there are too few samples for so many clients.
    """
    from flwr_datasets.partitioner import IidPartitioner

    _check_enough(len(labels), num_clients, min_samples)
    return _share_out(IidPartitioner(num_clients), labels, seed)


def dirichlet(
    labels: NDArray[np.int64],
    num_clients: int,
    seed: int,
    alpha: float = 0.5,
    min_samples: int = 10,
    self_balancing: bool = True,
) -> list[NDArray[np.int64]]:
    """Give every client its own label mix: each class is shared out in proportions drawn from a Dirichlet.

    Parameters
    ----------
    labels : NDArray[np.int64]
        ``[n]``, the label of each sample.
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
        For each client the positions of its samples in ``labels``.

    Raises
    ------
    ConfigurationError
        If ``alpha`` is not positive, or no draw gives each client ``min_samples`` samples.

    Notes
    -----
    Source: M. Yurochkin et al., "Bayesian Nonparametric Federated Learning of Neural Networks", ICML 2019.
    """
    from flwr_datasets.partitioner import DirichletPartitioner

    _check_enough(len(labels), num_clients, min_samples)
    if not 0 < alpha < math.inf:
        raise ConfigurationError(f"partition.alpha={alpha} must be a positive number, for example 0.5.")
    for attempt in range(DIRICHLET_PARTITIONERS):
        partitioner = DirichletPartitioner(
            num_partitions=num_clients,
            partition_by="label",
            alpha=float(alpha),
            min_partition_size=min_samples,
            self_balancing=self_balancing,
            shuffle=False,
            seed=derive(seed, f"dirichlet proportions {attempt}"),
        )
        try:
            return _share_out(partitioner, labels, seed)
        except (ValueError, FloatingPointError):
            continue
    raise ConfigurationError(
        f"No Dirichlet draw with partition.alpha={alpha} gives each of {num_clients} clients at least "
        f"partition.min_samples={min_samples} of {len(labels)} samples; "
        f"raise alpha, lower min_samples or take fewer clients."
    )


def _check_enough(num_samples: int, num_clients: int, min_samples: int) -> None:
    if num_clients < 1:
        raise ConfigurationError(f"num_clients={num_clients} must be at least 1.")
    if min_samples < 1:
        raise ConfigurationError(f"partition.min_samples={min_samples} must be at least 1.")
    if num_clients * min_samples > num_samples:
        raise ConfigurationError(
            f"{num_clients} clients of at least partition.min_samples={min_samples} need "
            f"{num_clients * min_samples} samples and there are {num_samples}; "
            f"take fewer clients or lower min_samples."
        )


def _share_out(partitioner: "Partitioner", labels: NDArray[np.int64], seed: int) -> list[NDArray[np.int64]]:
    """Run a partitioner over the samples in random order, because it cuts what it is given into runs."""
    from datasets import Dataset

    order = numpy_generator(seed, "partition order").permutation(len(labels))
    partitioner.dataset = Dataset.from_dict({"label": labels[order], "index": order})
    # Each draw that is made again warns, and the error says it better. Where all clients that drew a share of
    # a class are full already, DirichletPartitioner divides 0 by 0 and gives the class to the last client.
    with warnings.catch_warnings(), np.errstate(divide="raise", invalid="raise"):
        warnings.simplefilter("ignore")
        return [
            np.asarray(partitioner.load_partition(client)["index"][:], dtype=np.int64)
            for client in range(partitioner.num_partitions)
        ]
