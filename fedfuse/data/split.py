"""Split samples into parts with the same label mix; samples cut from a recording are split in time."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedfuse.data.samples import Population
from fedfuse.errors import ConfigurationError


def split(
    population: Population, fractions: Sequence[float], generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Split samples into parts that all have the label mix of the whole.

    Of each class a part gets its exact share, rounded down or up. The samples that rounding leaves over go to
    the largest remainders, summed over the classes so far, so that the size of every part is right too. A
    class with a single sample goes to the first part, unless the size of a part would suffer.

    Where the samples have an order in time, each class of each natural client is cut into stretches of time instead of
    being drawn from, and of two samples that overlap across a cut, the one in the larger part is left out.

    Parameters
    ----------
    population : Population
        The n samples.
    fractions : Sequence[float]
        The share of each part; their sum is 1.
    generator : np.random.Generator
        Draws which samples go where.

    Returns
    -------
    list[NDArray[np.int64]]
        For each part the positions of its samples in the population, in random order. Without an order in time every
        sample is in exactly one part, and with two or three parts, the size of each is less than one sample from
        ``fraction * n``. With such an order, no sample is in two parts and none overlaps one of another part.

    Raises
    ------
    ConfigurationError
        If a fraction is negative or their sum is not 1.
    """
    shares = np.asarray(fractions, dtype=np.float64)
    if (shares < 0).any() or not np.isclose(shares.sum(), 1):
        raise ConfigurationError(f"The fractions {list(fractions)} of a split must be at least 0 and sum to 1.")
    parts = [np.empty(0, dtype=np.int64) for _ in shares]
    cells = _cells(population)
    turns = _turns(cells, generator)
    counts_by_turn = _counts([len(cells[turn]) for turn in turns], shares)
    for turn, counts in zip(turns, counts_by_turn, strict=True):
        if population.order is None:
            pieces = np.split(generator.permutation(cells[turn]), np.cumsum(counts)[:-1])
        else:
            pieces = _stretches(cells[turn][np.argsort(population.order[cells[turn]])], counts, generator)
        parts = [np.concatenate([part, piece]) for part, piece in zip(parts, pieces, strict=True)]
    if population.order is not None:
        parts = _without_overlap(parts, population.order)
    return [generator.permutation(part) for part in parts]


def _cells(population: Population) -> list[NDArray[np.int64]]:
    """List what is split by itself: the positions of each class, in time also apart for each natural client."""
    kinds = population.labels
    if population.order is not None and population.natural_clients is not None:
        kinds = population.natural_clients.members * population.num_classes + population.labels
    order = np.argsort(kinds, kind="stable")
    _, starts = np.unique(kinds[order], return_index=True)
    return np.split(order, starts[1:]) if len(kinds) else []


def _turns(cells: Sequence[NDArray[np.int64]], generator: np.random.Generator) -> NDArray[np.int64]:
    """Order the cells: small ones first, while no part lacks anything yet; equal ones at random, to favour none."""
    turns = generator.permutation(len(cells))
    sizes = np.array([len(cell) for cell in cells], dtype=np.int64)
    return turns[np.argsort(sizes[turns], kind="stable")]


def _counts(sizes: Sequence[int], shares: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Say for each cell how many of its samples each part gets."""
    lacking = np.zeros(len(shares))
    counts_by_cell = []
    for size in sizes:
        # Rounded, because floating point puts shares that are whole numbers a hair above or below them.
        exact = np.round(size * shares, 9)
        counts = np.floor(exact).astype(np.int64)
        lacking += exact - counts
        left_over = size - counts.sum()
        receivers = np.argsort(-np.where(exact > counts, lacking, -np.inf), kind="stable")
        if size == 1 and np.abs(lacking - np.eye(len(shares))[0]).max() < 1 - 1e-6:
            receivers = np.arange(len(shares))
        counts[receivers[:left_over]] += 1
        lacking[receivers[:left_over]] -= 1
        counts_by_cell.append(counts)
    return counts_by_cell


def _stretches(
    in_time: NDArray[np.int64], counts: NDArray[np.int64], generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Cut samples that are sorted by time into one stretch for each part; which comes first is drawn."""
    sequence = generator.permutation(len(counts))
    cut = np.split(in_time, np.cumsum(counts[sequence])[:-1])
    return [cut[place] for place in np.argsort(sequence)]


def _without_overlap(parts: list[NDArray[np.int64]], order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Of two neighbours in time that are in different parts, leave out the one in the larger part."""
    positions = np.concatenate(parts)
    owners = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    in_time = np.argsort(order[positions])
    positions, owners = positions[in_time], owners[in_time]
    crossing = np.flatnonzero((np.diff(order[positions]) == 1) & (np.diff(owners) != 0))
    sizes = np.array([len(part) for part in parts])
    first_is_larger = sizes[owners[crossing]] >= sizes[owners[crossing + 1]]
    left_out = np.where(first_is_larger, crossing, crossing + 1)
    kept = np.ones(len(positions), dtype=bool)
    kept[left_out] = False
    return [positions[kept & (owners == part)] for part in range(len(parts))]
