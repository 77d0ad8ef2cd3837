"""How well scores tell members from others: area under the ROC curve, and what is found at few false alarms."""

import math

import torch
from torch import Tensor


def area_under_curve(of_members: Tensor, of_others: Tensor) -> Tensor:
    """Return how often a member scores higher than another: the area under the ROC curve; ties count half.

    Parameters
    ----------
    of_members, of_others : Tensor
        Scores ``[..., m]`` and ``[..., n]``.

    Returns
    -------
    Tensor
        float64 ``[...]``, 0.5 for scores that tell nothing.
    """
    others = of_others.contiguous().sort(dim=-1).values
    members = of_members.contiguous()
    below = torch.searchsorted(others, members) + torch.searchsorted(others, members, right=True)
    return below.double().mean(-1) / (2 * others.shape[-1])


def true_positive_rate(of_members: Tensor, of_others: Tensor, false_positive_rate: float) -> Tensor:
    """Return the share of members that score above all but so many of the others.

    Parameters
    ----------
    of_members, of_others : Tensor
        Scores ``[..., m]`` and ``[..., n]``.
    false_positive_rate : float
        The largest share of the others that may be taken for members, in [0, 1).

    Returns
    -------
    Tensor
        float64 ``[...]``; `chance_of_true_positive` for scores that tell nothing.
    """
    allowed = _allowed(of_others.shape[-1], false_positive_rate)
    threshold = of_others.sort(dim=-1, descending=True).values[..., allowed]
    return (of_members > threshold.unsqueeze(-1)).double().mean(-1)


def chance_of_true_positive(num_others: int, false_positive_rate: float) -> float:
    """Return the mean of `true_positive_rate` where scores tell nothing: a little above the false positive rate.

    A member's rank among n others is then any of n + 1 with the same chance.
    """
    return (_allowed(num_others, false_positive_rate) + 1) / (num_others + 1)


def _allowed(number: int, rate: float) -> int:
    return math.floor(rate * number)
