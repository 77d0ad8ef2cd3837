"""Several losses at once, each with a weight of its own."""

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import torch
from torch import Tensor

from fedfuse.models.outputs import Outputs
from fedfuse.objectives.objective import Batch, Objective, State, head_part_of, part_for


@dataclass(frozen=True)
class Sum:
    r"""Weighted sum of other objectives.

    .. math:: \sum_i w_i L_i

    Where only part of what it needs has been received, the terms that need nothing else are learnt from. With a term
    that judges batches as a whole, the sum is one number too: the losses of single samples are averaged over the batch
    first, after multiplication with the samples' weights where they have any.

    Parameters
    ----------
    terms : Sequence[Objective]
        At least one; a sum can be a term itself.
    weights : Sequence[float], optional
        One factor for each term, not negative; all are 1 if there are none.
    numbers : Sequence[int], optional
        What each term goes by in the memory, where the name of what it remembers starts with it; counted from 0 if
        there are none. A part of a sum keeps the numbers of the whole, and so its memory.

    Raises
    ------
    ValueError
        If there are no terms, not as many weights as terms, or a weight that is negative or not finite.
    """

    terms: Sequence[Objective]
    weights: Sequence[float] | None = None
    numbers: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("terms=[] must hold at least one objective")
        for name, values in (("weights", self.weights), ("numbers", self.numbers)):
            if values is not None and (not isinstance(values, Sequence) or len(values) != len(self.terms)):
                raise ValueError(f"{name}={values} must hold one number for each of {len(self.terms)} terms")
        for weight in self.weights or ():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"weights={self.weights} must be finite and not negative")

    @property
    def needs(self) -> frozenset[str]:
        """Return what any term needs."""
        return frozenset().union(*(term.needs for term in self.terms))

    @property
    def per_sample(self) -> bool:
        """Return whether every term has a loss for each sample."""
        return all(term.per_sample for term in self.terms)

    @property
    def at_head(self) -> "Sum | None":
        """Return the sum of what the terms make of the head alone; nothing if none does."""
        return self._of([head_part_of(term) for term in self.terms])

    def part(self, available: AbstractSet[str]) -> "Sum | None":
        """Return the sum of the terms that need nothing but what is available; nothing if there are none."""
        return self._of([part_for(term, available) for term in self.terms])

    def initial_state(self) -> State:
        """Return what the terms remember, as ``<number of the term>_<name>``."""
        return {
            f"{number}_{name}": value
            for number, _, term in self._numbered()
            for name, value in term.initial_state().items()
        }

    def __call__(self, outputs: Outputs, batch: Batch, mask: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the weighted sum, ``[B]`` if every term has a loss for each sample, else one number."""
        losses: list[Tensor] = []
        next_state: dict[str, Tensor] = {}
        for number, weight, term in self._numbered():
            prefix = f"{number}_"
            own_state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            loss, own_state = term(outputs, batch, mask, own_state)  # type: ignore[assignment]
            next_state |= {f"{prefix}{name}": value for name, value in own_state.items()}
            if loss.ndim == 1 and not self.per_sample:
                loss = _mean(loss, batch, mask)
            losses.append(weight * loss)
        return torch.stack(losses).sum(0), next_state

    def _of(self, terms: Sequence[Objective | None]) -> "Sum | None":
        """Return the sum of what became of each term, with its weight and its number; nothing if nothing is left."""
        kept = [
            (term, weight, number)
            for term, (number, weight, _) in zip(terms, self._numbered(), strict=True)
            if term is not None
        ]
        return Sum(*zip(*kept, strict=True)) if kept else None

    def _numbered(self) -> list[tuple[int, float, Objective]]:
        numbers = range(len(self.terms)) if self.numbers is None else self.numbers
        weights = [1.0] * len(self.terms) if self.weights is None else self.weights
        return list(zip(numbers, weights, self.terms, strict=True))


def _mean(losses: Tensor, batch: Batch, mask: Tensor) -> Tensor:
    """Average over the samples that are no padding, like the training loop does with a loss for each sample."""
    weighted = losses * batch["weights"] if "weights" in batch else losses
    return torch.where(mask, weighted, 0).sum() / mask.sum().clamp_min(1)
