"""Mix soft labels by relevance or by sample weights, renormalised by the mask, in blocks of rows.

A block bounds the memory beside the output: an input's size at most, where a mask, sample weights or a logarithm
make a changed copy of the soft labels necessary, and nothing otherwise.
"""

import torch
from torch import Tensor

SPACES = ("probability", "log_probability", "logit")
SMALLEST_PROBABILITY = 1e-8
BLOCK_ROWS = 512
BLOCK_NUMBERS = 2**20


def mix(
    soft_labels: Tensor,
    mask: Tensor,
    relevance: Tensor,
    sample_weights: Tensor | None = None,
    space: str = "probability",
) -> tuple[Tensor, Tensor]:
    r"""Mix the clients' soft labels for each listener.

    .. math:: q_k(x) = \frac{\sum_n w_{kn} s_n(x) m_n(x) p_n(x)}{\sum_n w_{kn} s_n(x) m_n(x)}

    In the spaces ``log_probability`` and ``logit`` the mean is over :math:`\log p` and a softmax follows (a weighted
    geometric mean). The two agree, because a logit and its log-probability differ by a constant in each row, which
    the softmax removes.

    Parameters
    ----------
    soft_labels : Tensor
        Probabilities ``[N, M, C]``, zero where masked.
    mask : Tensor
        Bool ``[N, M]``: the transfer samples that each client answered.
    relevance : Tensor
        Non-negative ``[K, N]``: how much each of K listeners counts on each client.
    sample_weights : Tensor, optional
        Non-negative ``[N, M]``: how much each client's answer to each sample counts.
    space : str
        One of `SPACES`.

    Returns
    -------
    mixed : Tensor
        Probabilities ``[K, M, C]``; rows sum to one; uniform where nobody answered.
    answered : Tensor
        Bool ``[K, M]``: where somebody whom the listener counts on answered.

    Raises
    ------
    ValueError
        If the space is unknown, a shape does not fit, or a weight is negative or not finite.
    """
    num_clients, num_samples, num_classes = soft_labels.shape
    if mask.shape != (num_clients, num_samples):
        raise ValueError(f"mask must have shape {[num_clients, num_samples]}, not {list(mask.shape)}")
    _check("relevance", relevance, (relevance.shape[0], num_clients))
    if sample_weights is not None:
        _check("sample weights", sample_weights, (num_clients, num_samples))
    if space not in SPACES:
        raise ValueError(f"unknown fusion space {space!r}; valid: {', '.join(SPACES)}")

    relevance = relevance.to(soft_labels.dtype)
    complete = sample_weights is None and bool(mask.all())
    weights = mask.to(soft_labels.dtype)
    if sample_weights is not None:
        weights = weights * sample_weights.to(soft_labels.dtype)
    values = soft_labels
    if space != "probability":
        values = soft_labels.clamp_min(SMALLEST_PROBABILITY).log_()
        if not complete:
            values.mul_(weights.unsqueeze(2))
    elif not complete:
        values = soft_labels * weights.unsqueeze(2)
    values = values.reshape(num_clients, num_samples * num_classes)

    mixed = soft_labels.new_empty(relevance.shape[0], num_samples, num_classes)
    answered = torch.empty(relevance.shape[0], num_samples, dtype=torch.bool)
    # A smaller sum counts as nothing: divided by it, rows would no longer sum to one.
    smallest_total = torch.finfo(mixed.dtype).tiny
    for start in range(0, relevance.shape[0], BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        block = mixed[rows]
        torch.mm(relevance[rows], values, out=block.view(len(block), -1))
        total = relevance[rows].sum(1, keepdim=True) if complete else relevance[rows] @ weights
        answered[rows] = total >= smallest_total
        block /= total.clamp_min(smallest_total).unsqueeze(2)
        if space != "probability":
            torch.softmax(block, dim=2, out=block)
        block[~answered[rows]] = 1 / num_classes
    return mixed, answered


def _check(name: str, weights: Tensor, shape: tuple[int, int]) -> None:
    if weights.shape != shape:
        raise ValueError(f"{name} must have shape {list(shape)}, not {list(weights.shape)}")
    if not torch.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(f"{name} must be finite and not negative")


def pairwise_divergence(distributions: Tensor, divergence: str, smoothing: float = 1e-3) -> Tensor:
    r"""Divergence of every row from every other row, without a loop over pairs.

    Parameters
    ----------
    distributions : Tensor
        Probabilities ``[N, C]``.
    divergence : str
        ``"kl"`` (Kullback-Leibler, :math:`KL(p_i \| p_j)`, natural logarithm), ``"js"`` (Jensen-Shannon) or ``"l2"``
        (squared Euclidean distance).
    smoothing : float
        Mixed with the uniform distribution in this proportion first, so that KL stays finite.

    Returns
    -------
    Tensor
        ``[N, N]``, zero on the diagonal, not negative.

    Raises
    ------
    ValueError
        If the divergence is unknown.
    """
    smooth = (1 - smoothing) * distributions + smoothing / distributions.shape[1]
    if divergence == "kl":
        negative_entropy = (smooth * smooth.log()).sum(1, keepdim=True)
        result = negative_entropy - smooth @ smooth.log().T
    elif divergence == "js":
        # The entropy of the middle, less the mean entropy; in blocks, because all middles are N times the input.
        entropy = torch.special.entr(smooth).sum(1)
        result = -(entropy.unsqueeze(1) + entropy) / 2
        block_rows = max(1, BLOCK_NUMBERS // smooth.numel())
        for start in range(0, len(smooth), block_rows):
            rows = slice(start, start + block_rows)
            result[rows] += torch.special.entr((smooth[rows].unsqueeze(1) + smooth) / 2).sum(2)
    elif divergence == "l2":
        result = torch.cdist(smooth, smooth).square()
    else:
        raise ValueError(f"unknown divergence {divergence!r}; valid: kl, js, l2")
    return result.clamp_min(0).fill_diagonal_(0)
