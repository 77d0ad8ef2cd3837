"""Partitions in which every client has samples of one domain only, for example of one hospital's scanner."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedfuse.data.partitions.dirichlet import dirichlet
from fedfuse.data.partitions.iid import iid
from fedfuse.data.partitions.sharing import check_enough
from fedfuse.data.samples import Population
from fedfuse.errors import ConfigurationError
from fedfuse.randomness import derive


def by_domain(population: Population, num_clients: int, seed: int, min_samples: int = 10) -> list[NDArray[np.int64]]:
    """Give each domain's samples to clients of its own, of which each has equally many (or one more), at random.

    Parameters
    ----------
    population : Population
        The samples to share out, which have domains.
    num_clients : int
        How many clients share the samples: a multiple of the number of domains. The first clients have the first
        domain.
    seed : int
        The seed of the run.
    min_samples : int
        The fewest samples a client may have.

    Returns
    -------
    list[NDArray[np.int64]]
        For each client the positions of its samples; all samples are used.

    Raises
    ------
    ConfigurationError
        If the data has no domains, ``num_clients`` is no multiple of their number, or a domain has too few samples.
    """

    def share(own: Population, clients: int, seed: int) -> list[NDArray[np.int64]]:
        return iid(own, clients, seed, min_samples)

    return _in_each_domain(population, num_clients, seed, share)


def dirichlet_in_domain(
    population: Population,
    num_clients: int,
    seed: int,
    alpha: float = 0.5,
    min_samples: int = 10,
    self_balancing: bool = True,
) -> list[NDArray[np.int64]]:
    """Give each domain's samples to clients of its own, of which each has its own label mix.

    Parameters
    ----------
    population : Population
        The samples to share out, which have domains.
    num_clients : int
        How many clients share the samples: a multiple of the number of domains. The first clients have the first
        domain.
    seed : int
        The seed of the run.
    alpha, min_samples, self_balancing
        As in `fedfuse.data.partitions.dirichlet.dirichlet`, within each domain.

    Returns
    -------
    list[NDArray[np.int64]]
        For each client the positions of its samples; all samples are used.

    Raises
    ------
    ConfigurationError
        If the data has no domains, ``num_clients`` is no multiple of their number, or for the reasons of ``dirichlet``.
    """

    def share(own: Population, clients: int, seed: int) -> list[NDArray[np.int64]]:
        return dirichlet(own, clients, seed, alpha, min_samples, self_balancing)

    return _in_each_domain(population, num_clients, seed, share)


def _in_each_domain(
    population: Population,
    num_clients: int,
    seed: int,
    share: Callable[[Population, int, int], list[NDArray[np.int64]]],
) -> list[NDArray[np.int64]]:
    """Share out each domain by itself, among equally many clients, with a seed of its own."""
    check_enough(len(population), num_clients, min_samples=1)
    if population.domains is None:
        raise ConfigurationError(
            "The data source has no domains; take another partition, for example partition=dirichlet."
        )
    names, members = population.domains.names, population.domains.members
    present = np.unique(members)
    if num_clients % len(present):
        listed = ", ".join(names[domain] for domain in present)
        raise ConfigurationError(
            f"num_clients={num_clients} must be a multiple of {len(present)}, the number of domains ({listed})."
        )
    shares = []
    for domain in present:
        positions = np.flatnonzero(members == domain)
        own_seed = derive(seed, f"domain {names[domain]}")
        try:
            parts = share(population.select(positions), num_clients // len(present), own_seed)
        except ConfigurationError as error:
            raise ConfigurationError(f"Domain {names[domain]}: {error}") from error
        shares += [positions[part] for part in parts]
    return shares
