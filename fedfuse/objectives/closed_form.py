"""The best weight between labels and fused knowledge, in closed form (Borup and Andersen, NeurIPS 2021)."""

import torch
from torch import Tensor

# Two answers that differ by less than this differ by rounding alone, and no weight is better than another.
ROUNDED_OFF = 1e-12


def closed_form_weight(from_labels: Tensor, from_fused: Tensor, labels: Tensor) -> float:
    r"""Return the weight of what was learnt from labels that fits held-out samples best, by least squares.

    .. math:: \alpha^* = \frac{\langle v - g_T,\; g_Y - g_T \rangle}{\| g_Y - g_T \|^2}

    with v the one-hot labels, :math:`g_Y` the answers learnt from labels and :math:`g_T` those learnt from fused
    knowledge: the minimum of :math:`\| \alpha g_Y + (1 - \alpha) g_T - v \|^2`. In their kernel ridge regression the
    answers are linear in the share of the labels in the targets; of a network that holds nearly.

    Parameters
    ----------
    from_labels, from_fused : Tensor
        Probabilities ``[v, C]``.
    labels : Tensor
        int64 ``[v]``.

    Returns
    -------
    float
        Any number: below 0 or above 1 where going beyond one of the two would fit better still. One half where the
        two agree, or without samples.
    """
    target = torch.nn.functional.one_hot(labels, from_labels.shape[1]).double()
    difference = from_labels.double() - from_fused.double()
    size = difference.square().sum().item()
    if size < ROUNDED_OFF:
        return 0.5
    return ((target - from_fused.double()) * difference).sum().item() / size
