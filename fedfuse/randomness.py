"""Every random draw of a run: a stream of its own for each (seed, purpose, round, client).

Streams come from a counter-based generator, so no draw depends on how many draws were made before it, on the order of
clients, or on the process that makes it. Draws that back a privacy guarantee must not come from here.
"""

import hashlib

import numpy as np
import torch
from torch import Tensor


def derive(seed: int, purpose: str, round: int = 0, client: int = 0) -> int:
    """Derive the 128-bit key of one stream.

    Parameters
    ----------
    seed : int
        The seed of the run.
    purpose : str
        What the draws are for, for example ``"learn"``. Two purposes never share a stream.
    round, client : int
        The round and the client that the draws belong to, 0 where there is none.

    Returns
    -------
    int
        A key in ``[0, 2**128)``.
    """
    name = f"{seed}/{purpose}/{round}/{client}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "big")


def numpy_generator(seed: int, purpose: str, round: int = 0, client: int = 0) -> np.random.Generator:
    """Make the NumPy generator (Philox) of one stream. For the parameters see `derive`."""
    return np.random.Generator(np.random.Philox(key=derive(seed, purpose, round, client)))


def torch_seed(seed: int, purpose: str, round: int = 0, client: int = 0) -> int:
    """Derive a 63-bit seed for code that draws from torch's own generator. For the parameters see `derive`."""
    return derive(seed, purpose, round, client) >> 65


def epoch_order(generator: np.random.Generator, num_samples: int, epochs: int) -> Tensor:
    """Draw the order in which each epoch visits the samples.

    Returns
    -------
    Tensor
        int64 ``[epochs, num_samples]``; every row is a permutation.
    """
    orders = np.stack([generator.permutation(num_samples) for _ in range(epochs)])
    return torch.from_numpy(orders.astype(np.int64))
