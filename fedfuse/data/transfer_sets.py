"""Ways to choose the transfer set, the samples that everybody holds and answers.

Each is a function of a pool of samples and of the rows that may be taken from it. What it returns has no labels: where
it looks at them, to keep or to balance the label mix, it does so as whoever sets up the experiment, before any client
or server exists.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedfuse.data.images import fit_images
from fedfuse.data.samples import LabelledData, Population, Samples
from fedfuse.data.split import split
from fedfuse.errors import ConfigurationError, unknown_name

# Of Gaussian noise in place of images, whose pixels go from 0 to 1: few pixels are cut off.
IMAGE_MEAN, IMAGE_STD = 0.5, 0.25


@dataclass(frozen=True, eq=False)
class Chosen:
    """A transfer set, and what it leaves.

    Attributes
    ----------
    inputs : Tensor
        ``[M, *shape]``, of the dtype of the pool, or floating point.
    kept : NDArray[np.int64]
        The rows of the pool that are left for the clients: not those of the transfer set, nor what is too near to them.
    rows : NDArray[np.int64] or None
        The rows of the pool that the transfer set consists of, in its order, where it consists of rows.
    domains : Tensor or None
        int64 ``[M]``, the domain of each sample, where it is known and the rows do not say it: see `domains_of`.
    """

    inputs: Tensor
    kept: NDArray[np.int64]
    rows: NDArray[np.int64] | None = None
    domains: Tensor | None = None


def held_out(
    pool: LabelledData, available: NDArray[np.int64], size: int, generator: np.random.Generator, balanced: bool = False
) -> Chosen:
    """Hold out samples of the pool.

    Parameters
    ----------
    pool : LabelledData
        The samples to choose from.
    available : NDArray[np.int64]
        The rows of the pool that may be chosen.
    size : int
        How many to choose.
    generator : np.random.Generator
        Draws them.
    balanced : bool
        Take equally many of each class, as far as there are any, instead of the pool's label mix.

    Raises
    ------
    ConfigurationError
        If the pool is too small.
    """
    if not 1 <= size < len(available):
        raise ConfigurationError(
            f"transfer.size={size} must be at least 1 and less than {len(available)}, "
            f"the number of samples that it can be chosen from."
        )
    kept, rows = _draw(pool, available, size, generator, balanced)
    return Chosen(pool.samples.inputs[rows], kept, rows)


def domain(
    pool: LabelledData,
    available: NDArray[np.int64],
    size: int,
    generator: np.random.Generator,
    domain: str,
    balanced: bool = False,
) -> Chosen:
    """Choose samples of one domain of the pool; the rest of that domain goes to no client.

    Parameters
    ----------
    pool, available, size, generator, balanced
        As of `held_out`.
    domain : str
        The name of the domain.

    Raises
    ------
    ConfigurationError
        If the pool has no domains, none of this name, or too few samples of it.
    """
    if pool.domains is None:
        raise ConfigurationError("The data source has no domains; take another transfer set, for example held_out.")
    if domain not in pool.domains.names:
        raise unknown_name("domain", str(domain), pool.domains.names)
    in_domain = pool.domains.members[available] == pool.domains.names.index(domain)
    own, others = available[in_domain], available[~in_domain]
    if not 1 <= size <= len(own):
        raise ConfigurationError(
            f"transfer.size={size} must be at least 1 and at most {len(own)}, "
            f"the number of samples of domain {domain} that it can be chosen from."
        )
    _, rows = _draw(pool, own, size, generator, balanced)
    return Chosen(pool.samples.inputs[rows], _apart(pool, others, rows), rows)


def uniform_noise(
    pool: LabelledData, available: NDArray[np.int64], size: int, generator: np.random.Generator
) -> Chosen:
    """Draw noise that is uniform: from 0 to 1 in place of images, else with the pool's mean and deviation by column.

    Parameters
    ----------
    pool : LabelledData
        Samples of the shape that the noise is to have. No sample of it is taken.
    available : NDArray[np.int64]
        The rows of the pool that means and standard deviations are of.
    size : int
        How many samples of noise to draw.
    generator : np.random.Generator
        Draws them.

    Notes
    -----
    Noise as carrier of knowledge is studied, in domain adaptation, by arXiv:2502.13573.
    """
    noise = torch.from_numpy(generator.random((size, *pool.samples.inputs.shape[1:]), dtype=np.float32))
    if not _are_images(pool.samples):
        mean, std = _columns(pool.samples.inputs[available])
        noise = mean + math.sqrt(12) * std * (noise - 0.5)
    return Chosen(noise, kept=available)


def gaussian_noise(
    pool: LabelledData,
    available: NDArray[np.int64],
    size: int,
    generator: np.random.Generator,
    mean: float | None = None,
    std: float | None = None,
) -> Chosen:
    """Draw noise that is normally distributed, cut off at 0 and 1 in place of images.

    Parameters
    ----------
    pool, available, size, generator
        As of `uniform_noise`.
    mean, std : float, optional
        Of the noise; by default 0.5 and 0.25 in place of images, else those of each column of the pool.

    Raises
    ------
    ConfigurationError
        If ``std`` is not positive.
    """
    if std is not None and not std > 0:
        raise ConfigurationError(f"std={std} must be a positive number, for example {IMAGE_STD}.")
    noise = torch.from_numpy(generator.standard_normal((size, *pool.samples.inputs.shape[1:]), dtype=np.float32))
    if _are_images(pool.samples):
        scaled = noise * (IMAGE_STD if std is None else std) + (IMAGE_MEAN if mean is None else mean)
        return Chosen(scaled.clamp(0, 1), kept=available)
    own_mean, own_std = _columns(pool.samples.inputs[available])
    return Chosen(noise * (own_std if std is None else std) + (own_mean if mean is None else mean), kept=available)


def collage(
    pool: LabelledData,
    available: NDArray[np.int64],
    size: int,
    generator: np.random.Generator,
    grid: int = 2,
    sources: int = 10,
) -> Chosen:
    """Make each sample of crops of a few images of the pool, side by side; these images go to no client.

    Parameters
    ----------
    pool, available, size, generator
        As of `held_out`.
    grid : int
        How many crops there are in a row and in a column. Each is as large as its place, and from a random place of
        a random one of the images.
    sources : int
        How many images the crops are from.

    Raises
    ------
    ConfigurationError
        If the pool has no images, or too few or too small ones.

    Notes
    -----
    Idea: Y. M. Asano and A. Saeed, "The Augmented Image Prior: Distilling 1000 Classes by Extrapolating from a Single
    Image", ICLR 2023.
    """
    shape = pool.samples.inputs.shape[1:]
    if len(shape) != 3:
        raise ConfigurationError(f"A collage is made of images; the samples are of shape {list(shape)}.")
    height, width = shape[1:]
    if not 1 <= grid <= min(height, width):
        raise ConfigurationError(f"grid={grid} must be at least 1 and at most {min(height, width)}, the images' side.")
    if not 1 <= sources < len(available):
        raise ConfigurationError(
            f"sources={sources} must be at least 1 and less than {len(available)}, the number of images to choose from."
        )
    kept, rows = _draw(pool, available, sources, generator, balanced=False)
    images = pool.samples.inputs[rows]
    collages = images.new_empty(size, *shape)
    for vertical in np.array_split(np.arange(height), grid):
        for horizontal in np.array_split(np.arange(width), grid):
            source = generator.integers(sources, size=size)
            top = generator.integers(height - len(vertical) + 1, size=size)
            left = generator.integers(width - len(horizontal) + 1, size=size)
            lines = top[:, None, None] + (vertical - vertical[0])[:, None]
            columns = left[:, None, None] + (horizontal - horizontal[0])
            # Indices on both sides of the channels put these last.
            crops = images[source[:, None, None], :, lines, columns].movedim(-1, 1)
            collages[:, :, vertical[0] : vertical[-1] + 1, horizontal[0] : horizontal[-1] + 1] = crops
    return Chosen(collages, kept)


def domains_of(chosen: Chosen, pool: LabelledData) -> Tensor | None:
    """Look up the domain of each sample of a transfer set, where its source has domains.

    Parameters
    ----------
    chosen : Chosen
        The transfer set.
    pool : LabelledData
        The samples that it was chosen from.

    Returns
    -------
    Tensor or None
        int64 ``[M]``. Domains without a sample in the transfer set are left out; the others are numbered from 0, in the
        order of the source.
    """
    if chosen.rows is None:
        return chosen.domains
    if pool.domains is None:
        return None
    _, numbers = np.unique(pool.domains.members[chosen.rows], return_inverse=True)
    return torch.from_numpy(numbers.astype(np.int64))


def from_elsewhere(chosen: Chosen, pool: LabelledData, samples: Samples, free: NDArray[np.int64]) -> Chosen:
    """Make a transfer set of another data source fit the clients' samples, none of which it takes.

    Parameters
    ----------
    chosen : Chosen
        From the other source.
    pool : LabelledData
        All samples of the other source.
    samples : Samples
        The clients' samples, whose shape it must have. Images are resized, and made grey or coloured.
    free : NDArray[np.int64]
        The rows of the clients' data source that are all left for the clients.

    Raises
    ------
    ConfigurationError
        If the shapes differ and these are not images.
    """
    try:
        inputs = fit_images(chosen.inputs, tuple(samples.inputs.shape[1:]))
    except ConfigurationError as error:
        raise ConfigurationError(f"transfer.data does not fit data: {error}") from error
    return Chosen(inputs, kept=free, domains=domains_of(chosen, pool))


def _draw(
    pool: LabelledData, available: NDArray[np.int64], size: int, generator: np.random.Generator, balanced: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw rows of the pool; return those that are left, far enough from them in time, and those drawn."""
    population = pool.population.select(available)
    if balanced:
        left, drawn = _split_evenly(population, size, generator)
    else:
        share = size / len(available)
        left, drawn = split(population, (1 - share, share), generator)
    if len(drawn) < size:
        raise ConfigurationError(
            f"Of recordings only {len(drawn)} of {size} samples can be drawn that are apart from all others in time; "
            f"take fewer."
        )
    return _apart(pool, available[left], available[drawn]), available[drawn]


def _split_evenly(
    population: Population, size: int, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split off equally many samples of each class; return what is left, and those."""
    members = [np.flatnonzero(population.labels == label) for label in range(population.num_classes)]
    counts = _even_counts(np.array([len(own) for own in members]), size, generator)
    left, drawn = [], []
    for own, count in zip(members, counts, strict=True):
        share = count / max(len(own), 1)
        parts = split(population.select(own), (1 - share, share), generator)
        left.append(own[parts[0]])
        drawn.append(own[parts[1]])
    return generator.permutation(np.concatenate(left)), generator.permutation(np.concatenate(drawn))


def _even_counts(sizes: NDArray[np.int64], total: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Share a total out evenly, to nobody more than its size; who gets one of the last ones is drawn."""
    counts = np.zeros_like(sizes)
    while missing := total - int(counts.sum()):
        able = generator.permutation(np.flatnonzero(counts < sizes))
        each = max(missing // len(able), 1)
        receivers = able[:missing]
        counts[receivers] = np.minimum(sizes[receivers], counts[receivers] + each)
    return counts


def _apart(pool: LabelledData, rows: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Leave out the rows that are neighbours in time of chosen ones."""
    if pool.order is None:
        return rows
    numbers = pool.order[chosen]
    return rows[~np.isin(pool.order[rows], np.concatenate([numbers - 1, numbers + 1]))]


def _are_images(samples: Samples) -> bool:
    """Say whether samples are images with pixels from 0 to 1, or stored as bytes."""
    inputs = samples.inputs
    return inputs.dtype == torch.uint8 or (inputs.ndim == 4 and float(inputs.min()) >= 0 and float(inputs.max()) <= 1)


def _columns(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the mean and the standard deviation of each column, whose number is that of the values of a sample."""
    return inputs.mean(0), inputs.std(0, correction=0)
