"""Find the nearest of many clients by what they answer, without comparing all of it for every pair.

A random projection keeps distances roughly (Johnson and Lindenstrauss, 1984). It names candidates, which are then
compared exactly. That pays where what is compared is long, such as all soft labels; not for one distribution a client.
"""

import torch
from torch import Tensor

from fedfuse.fusion import Neighbours
from fedfuse.memory import empty
from fedfuse.randomness import torch_seed

DIMENSIONS = 128
# Clients that lie together are compared together, in one matrix product. Larger groups share too few candidates.
GROUP = 32
CANDIDATES = 512


def nearest(distributions: Tensor, number: int, smoothing: float = 1e-3, candidates: int = CANDIDATES) -> Neighbours:
    r"""Find, for each client, those with the smallest divergence :math:`KL(p_i \| p_j)` from it, itself among them.

    Clients are put in groups of 32 by a projection of :math:`\sqrt{p}`, whose distances (Hellinger's) order near
    clients as the divergence does. The candidates of a group are those nearest to any of its members by the projection.
    Groups of clients that differ from each other are found almost surely; among clients of whom none is nearer than
    others, the projection cannot tell who is nearest.

    Parameters
    ----------
    distributions : Tensor
        Probabilities ``[N, D]``.
    number : int
        How many to find, 1 or above; all N where there are fewer.
    smoothing : float
        See `fedfuse.fusion.pairwise_divergence`.
    candidates : int
        How many clients a group is compared with exactly: the more, the fewer are missed. With N, none.

    Returns
    -------
    Neighbours
        The nearest first, with their divergence, exact, not negative and zero to oneself, in place of relevance.
    """
    num_clients, size = distributions.shape
    number = min(number, num_clients)
    candidates = min(max(candidates, number, GROUP), num_clients)
    sketches = sketch(distributions)
    squares = sketches.square().sum(1)
    order = _together(sketches, squares)
    found = torch.empty(num_clients, number, dtype=torch.int64)
    divergences = distributions.new_empty(num_clients, number)
    logarithms = empty(num_clients, size, dtype=distributions.dtype)
    torch.mul(distributions, 1 - smoothing, out=logarithms).add_(smoothing / size).log_()
    compared = empty(candidates, size, dtype=distributions.dtype)
    for start in range(0, num_clients, GROUP):
        group = order[start : start + GROUP]
        distance = (squares - 2 * sketches[group] @ sketches.T + squares[group].unsqueeze(1)).amin(0)
        # A member must not miss itself, whatever rounding does.
        distance[group] = -1
        near = distance.topk(candidates, largest=False).indices.sort().values
        torch.index_select(logarithms, 0, near, out=compared)
        own = (1 - smoothing) * distributions[group] + smoothing / size
        exact = -torch.special.entr(own).sum(1, keepdim=True) - own @ compared.T
        exact = exact.clamp_min_(0).masked_fill_(near == group.unsqueeze(1), 0)
        divergences[group], places = exact.topk(number, largest=False)
        found[group] = near[places]
    return Neighbours(found, divergences)


def sketch(distributions: Tensor) -> Tensor:
    """Project the square roots of distributions ``[N, D]`` at random, the same for all: ``[N, 128]``."""
    size = distributions.shape[1]
    generator = torch.Generator().manual_seed(torch_seed(0, "sketch"))
    directions = torch.randn(size, DIMENSIONS, generator=generator, dtype=distributions.dtype) / DIMENSIONS**0.5
    sketches = distributions.new_empty(len(distributions), DIMENSIONS)
    for start in range(0, len(distributions), GROUP):
        rows = slice(start, start + GROUP)
        torch.mm(distributions[rows].sqrt(), directions, out=sketches[rows])
    return sketches


def _together(sketches: Tensor, squares: Tensor) -> Tensor:
    """Order the clients so that similar ones are neighbours in it: by the nearest of some of them."""
    some = torch.arange(0, len(sketches), GROUP)
    return (squares[some] - 2 * sketches @ sketches[some].T).argmin(1).argsort(stable=True)
