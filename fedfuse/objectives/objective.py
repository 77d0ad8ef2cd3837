"""What every loss looks like to the training loop."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol, runtime_checkable

from torch import Tensor

from fedfuse.models.outputs import Outputs

Batch = Mapping[str, Tensor]
State = Mapping[str, Tensor]


class Objective(Protocol):
    """A loss with declared needs, for one batch of one client.

    Attributes
    ----------
    needs : frozenset[str]
        What the batch must hold: ``labels`` (int64 ``[B]``), ``soft_labels`` (``[B, C]``), ``prototypes`` (``[C, D]``)
        with ``prototype_mask`` (bool ``[C]``), ``class_logits`` (``[C, C]``) with ``class_logits_mask`` (bool ``[C]``);
        ``relations`` (``[B, R]``, distances from R transfer samples) with ``positions`` (int64 ``[B]``, which of the R
        each sample is) and ``relations_known`` (bool ``[B]``, false for samples that are none of them);
        ``own_soft_labels`` (``[B, C]``, what the client itself answered before it learns), ``known_classes`` (bool
        ``[C]``, those that it has samples of); or ``generated``, for a loss on generated features, which are labelled
        samples of the feature space.
    per_sample : bool
        Whether it returns a loss for each sample, so that samples can be weighed.
    """

    @property
    def needs(self) -> frozenset[str]:
        """Return what the batch must hold."""
        ...

    @property
    def per_sample(self) -> bool:
        """Return whether there is a loss for each sample."""
        ...

    def initial_state(self) -> State:
        """Return what the loss remembers between steps and rounds (often nothing), as named tensors."""
        ...

    def __call__(self, outputs: Outputs, batch: Batch, mask: Tensor, state: State) -> tuple[Tensor, State]:
        """Return per-sample losses ``[B]`` or one scalar, and the next state.

        ``mask`` (bool ``[B]``) is false in padding rows, whose losses never count. A scalar must leave them out itself.
        The function is traced by ``torch.vmap``, so it must not branch on values.
        """
        ...


@runtime_checkable
class HeadObjective(Objective, Protocol):
    """A loss that also judges what the model's last layer makes of samples of the feature space, beside private data.

    Attributes
    ----------
    at_head : Objective
        The loss there, or nothing. Its batch holds ``features`` (``[B, D]``) and ``labels``, and what was received of
        classes.
    """

    @property
    def at_head(self) -> Objective | None:
        """Return the loss of the head alone; nothing if there is none after all."""
        ...


@runtime_checkable
class Divisible(Objective, Protocol):
    """A loss of several terms, of which some can be learnt from without the others."""

    @property
    def terms(self) -> Sequence[Objective]:
        """Return the terms."""
        ...

    def part(self, available: AbstractSet[str]) -> Objective | None:
        """Return the terms that need nothing but what is available; nothing if there are none."""
        ...


def part_for(objective: Objective, available: AbstractSet[str]) -> Objective | None:
    """Return what of an objective can be learnt where only this is available; nothing if nothing can."""
    if isinstance(objective, Divisible):
        return objective.part(available)
    return objective if objective.needs <= available else None


def head_part_of(objective: Objective) -> Objective | None:
    """Return the loss of the head alone, where an objective has one."""
    return objective.at_head if isinstance(objective, HeadObjective) else None
