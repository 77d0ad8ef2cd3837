"""Ask for transfer samples whose answers are far apart (PCoreSet; Kang et al., 2025, arXiv 2506.00910)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedfuse.transfer.policy import Past


@dataclass(frozen=True)
class PCoreSet:
    """PCoreSet-style: the samples whose answers cover the space of probabilities best, by greedy k-centre.

    It starts from the samples of the round before, and takes again and again the one whose probabilities are farthest
    (Euclidean) from all of these and all taken so far; of equally far ones that with the higher entropy, then that with
    the lower row number. Unlike in the paper, where a model predicts every sample, the server knows the probabilities
    of no sample that nobody has answered. While there are such samples, half of the budget, rounded up, goes to random
    ones of them, which makes the first round a random one; the other half goes to them too where too few samples have
    been answered. And what it starts from are not labelled samples, but those that were asked for last.

    The work of a round grows as the budget times the size of the transfer set times the number of classes.

    Parameters
    ----------
    budget : int
        Samples to ask for in a round, at least 1; all are, where there are no more.

    Raises
    ------
    ValueError
        If the budget is no whole number of at least 1.
    """

    budget: int = 100
    looks_back: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.budget, bool) or not isinstance(self.budget, int) or self.budget < 1:
            raise ValueError(f"budget={self.budget!r} must be a whole number of at least 1")

    def __call__(self, past: Past, generator: np.random.Generator) -> Tensor:
        """Return the chosen row numbers, ascending."""
        if self.budget >= past.num_samples:
            return torch.arange(past.num_samples)
        unknown = torch.nonzero(~past.known).squeeze(1)
        num_known = past.num_samples - len(unknown)
        to_explore = min(len(unknown), (self.budget + 1) // 2)
        num_centres = min(num_known, self.budget - to_explore)
        random = generator.choice(len(unknown), size=self.budget - num_centres, replace=False)
        return torch.cat([unknown[torch.from_numpy(random)], _centres(past, num_centres)]).sort().values

    def most_rows(self, num_samples: int) -> int:
        """See `TransferPolicy.most_rows`."""
        return min(self.budget, num_samples)


def _centres(past: Past, number: int) -> Tensor:
    """Choose so many answered samples, each the farthest from those before it and from the start."""
    if past.answers is None or not number:
        return torch.empty(0, dtype=torch.int64)
    answers = past.answers
    entropy = torch.special.entr(answers).sum(1)
    squared_distance = torch.full_like(entropy, torch.inf)
    for row in torch.nonzero(past.asked & past.known).squeeze(1):
        squared_distance = torch.minimum(squared_distance, (answers - answers[row]).square().sum(1))
    # Below every distance: never the farthest, and no minimum brings it back.
    squared_distance[~past.known] = -1
    chosen = []
    for _ in range(number):
        farthest = squared_distance == squared_distance.max()
        row = torch.where(farthest, entropy, -torch.inf).argmax()
        squared_distance = torch.minimum(squared_distance, (answers - answers[row]).square().sum(1))
        squared_distance[row] = -1
        chosen.append(row)
    return torch.stack(chosen)
