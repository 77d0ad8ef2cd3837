"""The likelihood ratio attack: was a sample in the training data of a model? (LiRA, Carlini et al., 2022)."""

import torch
from torch import Tensor

SMALLEST = 1e-4
"""Of a probability and of its complement: beyond it confidence tells of rounding and of noise alone."""
SMALLEST_VARIANCE = 1e-6


def logit_confidence(soft_labels: Tensor, labels: Tensor) -> Tensor:
    r"""Scale the confidence in the true label, so that it is about Gaussian: :math:`\log p_y - \log(1 - p_y)`.

    Carlini et al., 2022 (arXiv 2112.03570), section V.

    Parameters
    ----------
    soft_labels : Tensor
        Probabilities ``[..., P, C]``.
    labels : Tensor
        int64 ``[P]``.

    Returns
    -------
    Tensor
        float64 ``[..., P]``.
    """
    positions = labels.unsqueeze(1).expand(*soft_labels.shape[:-1], 1)
    confidence = soft_labels.double().gather(-1, positions).squeeze(-1).clamp(0, 1)
    return torch.log(confidence.clamp_min(SMALLEST)) - torch.log((1 - confidence).clamp_min(SMALLEST))


def likelihood_ratios(confidences: Tensor, shadows: Tensor, members: Tensor) -> Tensor:
    r"""Compare how likely a confidence is for a model that has learnt a sample, and for one that has not.

    For each sample one Gaussian is fitted to the confidences of the shadow models that have learnt it and one to those
    of the others; the score is the difference of their log-densities at the confidence of the attacked model (online
    LiRA, algorithm 1). The two variances are global, the means over all samples, as the paper has it for few shadow
    models (section VI).

    Parameters
    ----------
    confidences : Tensor
        ``[P]``, of the attacked model, see `logit_confidence`.
    shadows : Tensor
        ``[S, P]``, of the shadow models.
    members : Tensor
        Bool ``[S, P]``: which samples each of them has learnt. Every sample is learnt by some and not by others.

    Returns
    -------
    Tensor
        ``[P]``, higher for those that were more probably learnt.
    """
    return _log_density(confidences, shadows, members) - _log_density(confidences, shadows, ~members)


def _log_density(confidences: Tensor, shadows: Tensor, chosen: Tensor) -> Tensor:
    """Return the logarithm of the density of each sample's Gaussian, but for a constant."""
    weights = chosen.to(shadows.dtype)
    mean = (weights * shadows).sum(0) / weights.sum(0)
    # A degree of freedom less for the mean of each sample; with one shadow on a side it takes away nothing.
    degrees = (weights.sum() - shadows.shape[1]).clamp_min(1)
    variance = ((weights * (shadows - mean).square()).sum() / degrees).clamp_min(SMALLEST_VARIANCE)
    return -((confidences - mean).square() / variance + torch.log(variance)) / 2
