"""What can be wrong with the data of some clients: labels that are not true, and inputs with noise.

A corruption is a function of the data of one client that returns what that client has instead. Several are applied in
the order of the configuration. All draws follow from the seed of the run and the client's id.
"""

from dataclasses import replace

import numpy as np
import torch

from fedfuse.data.federation import ClientData
from fedfuse.data.samples import Samples, as_numbers
from fedfuse.errors import ConfigurationError
from fedfuse.randomness import numpy_generator


def noisy_labels(
    data: ClientData,
    client: int,
    num_clients: int,
    num_classes: int,
    seed: int,
    rate: float = 0.2,
    clients: float = 1.0,
) -> ClientData:
    """Give a share of a client's training and validation samples another class; its test set stays true.

    Parameters
    ----------
    data : ClientData
        What the client has.
    client : int
        Its id.
    num_clients : int
        How many clients there are.
    num_classes : int
        How many classes there are; each of those that a sample does not have is equally likely.
    seed : int
        The seed of the run.
    rate : float
        The share of the labels that become wrong, of each of the two sets, rounded to the nearest whole number.
    clients : float
        The share of the clients that have wrong labels, rounded to the nearest whole number; which ones is drawn.

    Raises
    ------
    ConfigurationError
        If a share is not from 0 to 1.
    """
    for name, share in (("rate", rate), ("clients", clients)):
        if not 0 <= share <= 1:
            raise ConfigurationError(f"{name}={share} must be a number from 0 to 1.")
    noisy_clients = numpy_generator(seed, "clients with noisy labels").permutation(num_clients)
    if client not in noisy_clients[: round(clients * num_clients)]:
        return data
    generator = numpy_generator(seed, "noisy labels", client=client)
    return replace(
        data,
        train=_with_wrong_labels(data.train, rate, num_classes, generator),
        validation=_with_wrong_labels(data.validation, rate, num_classes, generator),
    )


def _with_wrong_labels(samples: Samples, rate: float, num_classes: int, generator: np.random.Generator) -> Samples:
    wrong = generator.choice(len(samples), round(rate * len(samples)), replace=False)
    labels = samples.labels.clone()
    labels[wrong] = (labels[wrong] + torch.from_numpy(generator.integers(1, num_classes, len(wrong)))) % num_classes
    return Samples(samples.inputs, labels)


def noisy_features(
    data: ClientData,
    client: int,
    num_clients: int,
    num_classes: int,
    seed: int,
    std: float = 0.1,
    growing: bool = True,
) -> ClientData:
    """Add Gaussian noise to all inputs of a client, also to those that test it: what it measures with is noisy.

    Pixels stored as bytes become numbers from 0 to 1 first. Nothing is cut off at 0 and 1, so that the noise has the
    same mean and spread wherever an input lies.

    Parameters
    ----------
    data : ClientData
        What the client has.
    client : int
        Its id.
    num_clients : int
        How many clients there are.
    num_classes : int
        Not used: the noise is the same for all classes.
    seed : int
        The seed of the run.
    std : float
        The standard deviation of the noise, in the units of the inputs.
    growing : bool
        Give client k noise of standard deviation ``std * k / num_clients``, so that the first client has none and
        no two have the same; otherwise all have ``std``.

    Raises
    ------
    ConfigurationError
        If ``std`` is negative or not finite.

    Notes
    -----
    Noise that grows with the client's id is after Q. Li et al., "Federated Learning on Non-IID Data Silos: An
    Experimental Study", ICDE 2022.
    """
    if not 0 <= std < float("inf"):
        raise ConfigurationError(f"std={std} must be a number of at least 0.")
    own_std = std * client / num_clients if growing else std
    generator = numpy_generator(seed, "noisy features", client=client)
    return ClientData(
        train=_with_noise(data.train, own_std, generator),
        validation=_with_noise(data.validation, own_std, generator),
        test=_with_noise(data.test, own_std, generator),
    )


def _with_noise(samples: Samples, std: float, generator: np.random.Generator) -> Samples:
    inputs = samples.inputs if samples.inputs.is_floating_point() else as_numbers(samples.inputs, torch.float32)
    noise = torch.from_numpy(generator.standard_normal(tuple(inputs.shape), dtype=np.float32))
    return Samples(inputs + (std * noise).to(inputs.dtype), samples.labels)
