"""Exposure: how far a secret stands out among all that it could have been (Carlini et al., 2019, arXiv 1802.08232)."""

import math

import torch
from torch import Tensor


def exposures(losses: Tensor, others: Tensor) -> Tensor:
    r"""Return the exposure of each secret in bits.

    .. math:: exposure(s) = \log_2 |R| - \log_2 rank_R(s)

    where rank 1 is the lowest loss among the candidates R. It is at most :math:`\log_2 |R|`; of a secret that nobody
    has seen it is 1.44 on average, of many candidates. Among equal losses the rank is the middle one: who answers
    everything alike exposes nothing.

    Parameters
    ----------
    losses : Tensor
        ``[K]``, of the secrets.
    others : Tensor
        ``[K, n]``, of all other candidates for each secret, so that \|R\| is n + 1.

    Returns
    -------
    Tensor
        float64 ``[K]``.
    """
    own = losses.unsqueeze(1)
    ranks = 1 + (others < own).sum(1).double() + (others == own).sum(1).double() / 2
    return math.log2(others.shape[1] + 1) - torch.log2(ranks)


def exposures_of_strangers(losses: Tensor) -> Tensor:
    """Return the exposure of every candidate ``[n]`` among all of them: what secrets have that nobody has seen."""
    ascending = losses.sort().values
    below, up_to = torch.searchsorted(ascending, losses), torch.searchsorted(ascending, losses, right=True)
    ranks = 1 + below.double() + (up_to - below - 1).double() / 2
    return math.log2(len(losses)) - torch.log2(ranks)
