"""Bring noised rows back onto the probability simplex."""

import torch
from torch import Tensor


def project_to_simplex(rows: Tensor) -> Tensor:
    """Project each row to the nearest point of the simplex, in Euclidean distance.

    Source: Duchi, Shalev-Shwartz, Singer and Chandra, ICML 2008, algorithm 1 (sort, find the threshold, clip).

    Parameters
    ----------
    rows : Tensor
        Any finite values ``[R, C]``.

    Returns
    -------
    Tensor
        ``[R, C]``, not negative, rows sum to one. A row that is on the simplex already comes back unchanged, up to
        rounding.
    """
    # A constant does not change the projection, and without it large rows do not lose the one to rounding.
    rows = rows - rows.amax(1, keepdim=True)
    descending = rows.sort(dim=1, descending=True).values
    excess = descending.cumsum(1) - 1
    rank = torch.arange(1, rows.shape[1] + 1, dtype=rows.dtype, device=rows.device)
    support = (descending * rank > excess).sum(1, keepdim=True)
    threshold = excess.gather(1, support - 1) / support.to(rows.dtype)
    return (rows - threshold).clamp_min(0)
