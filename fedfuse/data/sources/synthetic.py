"""Made data with shifts of labels and of features between clients, of which the best possible accuracy is known."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from fedfuse.data.samples import Groups, LabelledData, Samples
from fedfuse.errors import ConfigurationError
from fedfuse.randomness import numpy_generator

# Beyond 8.5 standard deviations a normal density adds 2e-17. It and its distribution function are so smooth that the
# trapezoidal rule is exact to the last digits with these steps.
QUADRATURE_LIMIT, QUADRATURE_POINTS = 8.5, 1001


def synthetic(
    samples: int = 5000,
    num_clients: int = 10,
    classes: int = 5,
    dimensions: int = 16,
    separation: float = 3.0,
    alpha: float = 1.0,
    feature_shift: float = 0.0,
    seed: int = 0,
) -> LabelledData:
    """Draw Gaussian classes whose means are all equally far from each other, for clients with shifts of their own.

    A sample is the mean of its class, plus the offset of its client, plus standard normal noise in every dimension.

    Parameters
    ----------
    samples : int
        How many samples there are; every client has as many as any other, or one more.
    num_clients : int
        How many natural clients there are.
    classes : int
        How many classes there are, at least 2.
    dimensions : int
        The length of a sample, at least ``classes - 1``.
    separation : float
        The distance between the means of any two classes, in standard deviations of the noise.
    alpha : float
        The concentration of the Dirichlet that each client's label mix is drawn from. Small means that a client has few
        classes.
    feature_shift : float
        The length of each client's offset, whose direction is random; 0 for none.
    seed : int
        Decides every draw.

    Returns
    -------
    LabelledData
        Inputs ``[samples, dimensions]``, sorted by natural client.

    Raises
    ------
    ConfigurationError
        If a value is out of its range.

    See Also
    --------
    bayes_accuracy : The accuracy that no classifier can exceed on this data.
    label_mixes : What each client's labels are drawn from.
    """
    mixes = label_mixes(num_clients, classes, alpha, seed)
    _check_whole("samples", samples, num_clients)
    _check_whole("dimensions", dimensions, classes - 1)
    _check_number("separation", separation)
    _check_number("feature_shift", feature_shift)

    people = np.sort(np.arange(samples, dtype=np.int64) % num_clients)
    uniform = numpy_generator(seed, "synthetic labels").random(samples)
    labels = (uniform[:, None] > mixes.cumsum(1)[people, :-1]).sum(1)
    means = _equidistant(classes, dimensions, separation, numpy_generator(seed, "synthetic means"))
    directions = numpy_generator(seed, "synthetic feature shifts").standard_normal((num_clients, dimensions))
    offsets = feature_shift * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    inputs = numpy_generator(seed, "synthetic noise").standard_normal((samples, dimensions), dtype=np.float32)
    inputs += means[labels].astype(np.float32)
    inputs += offsets[people].astype(np.float32)
    return LabelledData(
        samples=Samples(torch.from_numpy(inputs), torch.from_numpy(labels)),
        class_names=tuple(f"class {number}" for number in range(classes)),
        natural_clients=Groups(tuple(f"client {number}" for number in range(num_clients)), people),
    )


def label_mixes(num_clients: int, classes: int, alpha: float, seed: int) -> NDArray[np.float64]:
    """Draw the probabilities that each client's labels are drawn from.

    Parameters
    ----------
    num_clients, classes, alpha, seed
        As for `synthetic`, which draws its labels from these.

    Returns
    -------
    NDArray[np.float64]
        ``[num_clients, classes]``; rows sum to 1. Their mean is the label mix of the whole population.

    Raises
    ------
    ConfigurationError
        If a value is out of its range.
    """
    _check_whole("num_clients", num_clients, 1)
    _check_whole("classes", classes, 2)
    _check_whole("seed", seed, 0)
    if not _is_number(alpha) or alpha <= 0:
        raise ConfigurationError(f"alpha={alpha!r} must be a positive number, for example 0.5.")
    return numpy_generator(seed, "synthetic label mixes").dirichlet(np.full(classes, alpha), num_clients)


def bayes_accuracy(separation: float, prior: NDArray[np.float64]) -> float:
    """Say how often the best classifier is right that knows the means, the client's offset and the label mix.

    Parameters
    ----------
    separation : float
        As for `synthetic`.
    prior : NDArray[np.float64]
        ``[classes]``, the true probability of each class: of one client, or of the whole population.

    Returns
    -------
    float
        The accuracy, to at least 10 digits. With feature shift, a classifier for all clients that cannot tell whose a
        sample is may not reach it.

    Notes
    -----
    With means ``a e_k``, ``a = separation / sqrt(2)``, the best classifier compares ``x_k + log(prior_k) / a``. It is
    right on class ``j`` if ``z + a + (log(prior_j) - log(prior_k)) / a`` exceeds a standard normal number for every
    other ``k``, where ``z`` is one too: an integral over ``z`` of a product of normal distribution functions. For two
    classes that are equally likely this is ``Phi(separation / 2)``.

    Examples
    --------
    >>> round(bayes_accuracy(2.0, np.array([0.5, 0.5])), 6)
    0.841345
    """
    from scipy.special import log_ndtr

    prior = np.asarray(prior, dtype=np.float64)
    if separation == 0:
        return float(prior.max())
    distance = separation / math.sqrt(2)
    possible = prior[prior > 0]
    z, step = np.linspace(-QUADRATURE_LIMIT, QUADRATURE_LIMIT, QUADRATURE_POINTS, retstep=True)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    accuracy = 0.0
    for number, probability in enumerate(possible):
        leads = distance + (np.log(probability) - np.log(np.delete(possible, number))) / distance
        all_smaller = np.exp(log_ndtr(z[:, None] + leads).sum(1))
        accuracy += probability * float((density * all_smaller).sum() * step)
    return accuracy


def _equidistant(
    classes: int, dimensions: int, separation: float, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Place the corners of a regular simplex around 0, turned at random: ``[classes, dimensions]``."""
    corners = np.eye(classes) - 1 / classes
    # The corners lie in a space of one dimension less; the first right singular vectors are a basis of it.
    basis = np.linalg.svd(corners)[2][: classes - 1]
    turn = np.linalg.qr(generator.standard_normal((dimensions, classes - 1)))[0]
    placed: NDArray[np.float64] = separation / math.sqrt(2) * corners @ basis.T @ turn.T
    return placed


def _check_whole(name: str, value: object, smallest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
        raise ConfigurationError(f"{name} must be a whole number of at least {smallest}, not {value!r}.")


def _check_number(name: str, value: object) -> None:
    if not _is_number(value) or value < 0:  # type: ignore[operator]
        raise ConfigurationError(f"{name} must be a number of at least 0, not {value!r}.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
