"""Enhanced ERA: average soft labels, then raise to a power (SCARLET, Azuma et al., 2025, arXiv 2504.19602)."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, softmax

from fedfuse.knowledge import Fused, KnowledgeBatch
from fedfuse.server import Server
from fedfuse.strategy import FusionStrategy


class EnhancedERA(FusionStrategy):
    r"""Enhanced ERA: one consensus for all, the mean of the soft labels sharpened by a power.

    :math:`q \propto \bar p^{\,\beta}`, with the mean :math:`\bar p` of the soft labels. At an exponent of 1 it is the
    mean; above, the entropy falls and the order of the classes stays, for any number of classes. Fusion space:
    probability.

    This is the aggregation of SCARLET, as its authors' code has it. Its cache can be switched on: the consensus on a
    sample is then used again for some rounds after the one that made it, and no client is asked for that sample. Where
    everything is known, the oldest answer is asked for again. It is meant for ``transfer/policy=random_subset``: if
    every round has all samples, all are kept and renewed at once. In SCARLET clients have a cache too, which saves
    bytes on the way down; here the whole consensus is sent. There is no server model either.

    Parameters
    ----------
    exponent : float
        Beta, positive: above 1 sharpens, below 1 flattens.
    cache_duration : int
        For how many rounds a consensus is used again, not negative; 0 is no cache, SCARLET has 50.
    """

    sends = returns = frozenset({"soft_labels"})

    def __init__(self, exponent: float = 2.0, cache_duration: int = 0) -> None:
        if not (math.isfinite(exponent) and exponent > 0):
            raise ValueError(f"exponent={exponent} must be finite and positive")
        if cache_duration < 0:
            raise ValueError(f"cache_duration={cache_duration} must not be negative")
        self.exponent = exponent
        self.cache_duration = cache_duration
        # The consensus on each sample, [M, C], and the round that made it, int64 [M], 0 where there is none.
        self.cached: Tensor | None = None
        self.cached_rounds: Tensor | None = None
        # What the transfer policy chose for this round.
        self.chosen = torch.empty(0, dtype=torch.int64)

    def ask(self, rows: Tensor, round: int) -> Tensor:
        """Ask for what is not in the cache, or too old."""
        self.chosen = rows
        if self.cached_rounds is None:
            return rows
        ages = self.cached_rounds[rows]
        unknown = rows[(ages == 0) | (round - ages > self.cache_duration)]
        return unknown if len(unknown) else rows[ages.argmin()].unsqueeze(0)

    def fuse(self, knowledge: KnowledgeBatch, server: Server) -> Fused:
        """Average the soft labels of those who answered, sharpen the mean, and add what is in the cache."""
        averaged = super().fuse(knowledge, server)
        assert averaged.common is not None, "without relate, all clients get the same"
        mean, mask = (averaged.common["soft_labels"][name] for name in ("soft_labels", "mask"))
        # Rounding in a client's answers can leave a mean just below zero, which has no logarithm.
        logarithm = mean.double().clamp_min(0).log()
        sharpened = softmax(self.exponent * logarithm, dim=1).to(mean.dtype)
        if self.cache_duration:
            sharpened, mask = self._through_cache(sharpened, mask, knowledge.round)
        return Fused.for_all(averaged.relevance, soft_labels={"soft_labels": sharpened, "mask": mask})

    def _through_cache(self, consensus: Tensor, mask: Tensor, round: int) -> tuple[Tensor, Tensor]:
        if self.cached is None or self.cached_rounds is None:
            self.cached, self.cached_rounds = consensus, torch.zeros(len(mask), dtype=torch.int64)
        # Always new ones: what `state_dict` returned must stay as it is.
        self.cached = torch.where(mask.unsqueeze(1), consensus, self.cached)
        self.cached_rounds = torch.where(mask, round, self.cached_rounds)
        chosen = torch.zeros_like(mask).index_fill(0, self.chosen, True)
        known = chosen & (self.cached_rounds > 0) & (round - self.cached_rounds <= self.cache_duration)
        return torch.where(known.unsqueeze(1), self.cached, consensus), known | mask

    def state_dict(self) -> dict[str, Any]:
        """Return the cache."""
        return {"cached": self.cached, "cached_rounds": self.cached_rounds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.cached, self.cached_rounds = state["cached"], state["cached_rounds"]
