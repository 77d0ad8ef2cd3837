"""Mix soft labels by relevance or by sample weights, renormalised by the mask, in blocks of samples and of listeners.

A block bounds the memory beside the output: a copy of soft labels, which a mask, sample weights, a logarithm or a
choice of neighbours make necessary, has at most `PRODUCT_NUMBERS` numbers, or those of one transfer sample.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from fedfuse.memory import empty, zeros

SPACES = ("probability", "log_probability", "logit")
SMALLEST_PROBABILITY = 1e-8
BLOCK_ROWS = 512
# So few numbers stay in a processor's cache, where each is read once for every listener.
BLOCK_NUMBERS = 2**20
# A matrix product reads the whole relevance for every block, hence larger ones.
PRODUCT_NUMBERS = 2**22


@dataclass(frozen=True)
class Neighbours:
    """The clients that each of K listeners counts on, where it does not count on all.

    Parameters
    ----------
    clients : Tensor
        int64 ``[K, k]``: which they are, each once.
    relevance : Tensor
        Non-negative ``[K, k]``: how much the listener counts on each.
    """

    clients: Tensor
    relevance: Tensor

    def dense(self, num_clients: int) -> Tensor:
        """Return the relevance of all clients, ``[K, N]``, zero for those that are no neighbours."""
        relevance = zeros(len(self.clients), num_clients, dtype=self.relevance.dtype)
        return relevance.scatter_(1, self.clients, self.relevance)


def strongest(relevance: Tensor, number: int) -> Neighbours:
    """Keep the clients that each listener counts on most.

    Parameters
    ----------
    relevance : Tensor
        Non-negative ``[K, N]``.
    number : int
        How many to keep, 1 or above; all where there are fewer.

    Returns
    -------
    Neighbours
        The strongest first, their relevance summing to one for each listener that counts on anybody.
    """
    kept, clients = relevance.topk(min(number, relevance.shape[1]), dim=1)
    return Neighbours(clients, kept / kept.sum(1, keepdim=True).clamp_min(torch.finfo(kept.dtype).tiny))


def mix(
    soft_labels: Tensor,
    mask: Tensor,
    relevance: Tensor | Neighbours,
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
    relevance : Tensor or Neighbours
        Non-negative ``[K, N]``: how much each of K listeners counts on each client; or on its neighbours alone.
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
        If the space or a neighbour is unknown, a shape does not fit, or a weight is negative or not finite.
    """
    num_clients, num_samples, num_classes = soft_labels.shape
    if mask.shape != (num_clients, num_samples):
        raise ValueError(f"mask must have shape {[num_clients, num_samples]}, not {list(mask.shape)}")
    if isinstance(relevance, Neighbours):
        _check("relevance", relevance.relevance, tuple(relevance.clients.shape))
        # What adds them up would not notice.
        first, last = relevance.clients.aminmax()
        if not 0 <= int(first) <= int(last) < num_clients:
            raise ValueError(f"neighbours must be from 0 to {num_clients - 1}, not from {int(first)} to {int(last)}")
    else:
        _check("relevance", relevance, (relevance.shape[0], num_clients))
    if sample_weights is not None:
        _check("sample weights", sample_weights, (num_clients, num_samples))
    if space not in SPACES:
        raise ValueError(f"unknown fusion space {space!r}; valid: {', '.join(SPACES)}")

    strengths = relevance.relevance if isinstance(relevance, Neighbours) else relevance
    strengths = strengths.to(soft_labels.dtype)
    listeners = Neighbours(relevance.clients, strengths) if isinstance(relevance, Neighbours) else strengths
    complete = sample_weights is None and bool(mask.all())
    if isinstance(relevance, Neighbours):
        block_numbers = BLOCK_NUMBERS
    elif complete and space == "probability":
        block_numbers = soft_labels.numel()  # as they are they need no copy
    else:
        block_numbers = PRODUCT_NUMBERS
    block_samples = max(1, block_numbers // max(1, num_clients * num_classes))

    mixed = empty(len(strengths), num_samples, num_classes, dtype=soft_labels.dtype)
    answered = torch.empty(len(strengths), num_samples, dtype=torch.bool)
    # A smaller sum counts as nothing: divided by it, rows would no longer sum to one.
    smallest_total = torch.finfo(mixed.dtype).tiny
    for first_sample in range(0, num_samples, block_samples):
        samples = slice(first_sample, first_sample + block_samples)
        weights = None
        if not complete:
            weights = mask[:, samples].to(soft_labels.dtype)
            weights *= 1 if sample_weights is None else sample_weights[:, samples]
        values = _values(soft_labels[:, samples], weights, space)
        for first_row in range(0, len(strengths), BLOCK_ROWS):
            rows = slice(first_row, first_row + BLOCK_ROWS)
            block = mixed[rows, samples]
            _add_up(listeners, rows, values, out=block.view(len(block), -1))
            if weights is None:
                total = strengths[rows].sum(1, keepdim=True)
            else:
                total = _add_up(listeners, rows, weights, out=weights.new_empty(block.shape[:2]))
            heard = total >= smallest_total
            answered[rows, samples] = heard
            block /= total.clamp_min_(smallest_total).unsqueeze(2)
            if space != "probability":
                torch.softmax(block, dim=2, out=block)
            if not heard.all():
                block[~heard.expand(block.shape[:2])] = 1 / num_classes
    return mixed, answered


def _values(soft_labels: Tensor, weights: Tensor | None, space: str) -> Tensor:
    """Return what is added up of some samples, ``[N, M * C]``, without a copy if these are soft labels as they are."""
    values = soft_labels
    if space != "probability":
        values = values.clamp_min(SMALLEST_PROBABILITY).log_()
    if weights is not None:
        values = values * weights.unsqueeze(2)
    return values.reshape(len(values), -1)


def _add_up(listeners: Tensor | Neighbours, rows: slice, values: Tensor, out: Tensor) -> Tensor:
    """Write the sum of the clients' values ``[N, D]``, by relevance, for some of the listeners: ``[rows, D]``."""
    if isinstance(listeners, Neighbours):
        clients, relevance = listeners.clients[rows], listeners.relevance[rows]
        return out.copy_(embedding_bag(clients, values.contiguous(), per_sample_weights=relevance, mode="sum"))
    return torch.mm(listeners[rows], values, out=out)


def _check(name: str, weights: Tensor, shape: tuple[int, ...]) -> None:
    if weights.shape != shape:
        raise ValueError(f"{name} must have shape {list(shape)}, not {list(weights.shape)}")
    if not is_weight(weights):
        raise ValueError(f"{name} must be finite and not negative")


def is_weight(weights: Tensor) -> bool:
    """Tell whether no number is negative, infinite or a NaN, in one pass and without a copy."""
    if not weights.numel():
        return True
    smallest, largest = weights.aminmax()
    return 0 <= float(smallest) <= float(largest) < math.inf


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
    if divergence not in ("kl", "js", "l2"):
        raise ValueError(f"unknown divergence {divergence!r}; valid: kl, js, l2")
    smooth = (1 - smoothing) * distributions + smoothing / distributions.shape[1]
    logarithm = smooth.log()
    entropy = torch.special.entr(smooth).sum(1)
    result = empty(len(smooth), len(smooth), dtype=smooth.dtype)
    # All middles of pairs are N times the input.
    block_rows = BLOCK_ROWS if divergence != "js" else max(1, BLOCK_NUMBERS // smooth.numel())
    for start in range(0, len(smooth), block_rows):
        rows = slice(start, start + block_rows)
        block = result[rows]
        if divergence == "kl":
            torch.mm(smooth[rows], logarithm.T, out=block).add_(entropy[rows].unsqueeze(1)).neg_()
        elif divergence == "js":
            # The entropy of the middle, less the mean entropy.
            middles = torch.special.entr((smooth[rows].unsqueeze(1) + smooth) / 2)
            torch.sum(middles, 2, out=block).sub_((entropy[rows].unsqueeze(1) + entropy) / 2)
        else:
            torch.square(torch.cdist(smooth[rows], smooth), out=block)
        block.clamp_min_(0)
    return result.fill_diagonal_(0)
