"""Which transfer samples carry knowledge in a round, seen from the round loop."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Past:
    """What the server remembers of the rounds before.

    Parameters
    ----------
    answers : Tensor or None
        For each transfer sample the mean of the clients' soft labels when they were asked for it last: ``[M, C]``,
        uniform in rows that nobody answered yet. Nothing before the first soft labels.
    known : Tensor
        Bool ``[M]``: the samples that somebody has answered.
    asked : Tensor
        Bool ``[M]``: the samples that were asked for in the round before.
    """

    answers: Tensor | None
    known: Tensor
    asked: Tensor

    @property
    def num_samples(self) -> int:
        """M, the size of the transfer set."""
        return len(self.known)

    def answered(self, soft_labels: Tensor, mask: Tensor, asked: Tensor) -> "Past":
        """Return the past after a round in which N clients answered ``[N, M, C]`` where the mask ``[N, M]`` says."""
        counted = mask.to(soft_labels.dtype)
        number = counted.sum(0)
        mean = torch.einsum("nmc,nm->mc", soft_labels, counted) / number.clamp_min(1).unsqueeze(1)
        before = torch.full_like(mean, 1 / mean.shape[1]) if self.answers is None else self.answers
        answered = number > 0
        now = torch.zeros_like(self.asked)
        now[asked] = True
        return Past(torch.where(answered.unsqueeze(1), mean, before), self.known | answered, now)


def no_past(num_samples: int) -> Past:
    """Return the past before round 1."""
    nothing = torch.zeros(num_samples, dtype=torch.bool)
    return Past(None, nothing, nothing)


class TransferPolicy(Protocol):
    """Choose the transfer samples of a round; the same ones for every client.

    Attributes
    ----------
    looks_back : bool
        Whether the choice follows from what clients answered in the rounds before, which no noise covers.
    """

    looks_back: ClassVar[bool]

    def __call__(self, past: Past, generator: np.random.Generator) -> Tensor:
        """Return ascending int64 row numbers of the transfer set, at least one."""
        ...

    def most_rows(self, num_samples: int) -> int:
        """Return how many of so many transfer samples it chooses at most."""
        ...
