"""What every loss looks like to the training loop."""

from collections.abc import Mapping
from typing import ClassVar, Protocol, runtime_checkable

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
        or ``generated``, for a loss on generated features, which are labelled samples of the feature space.
    """

    needs: ClassVar[frozenset[str]]

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
        The loss there. Its batch holds ``features`` (``[B, D]``) and ``labels``, and what was received of classes.
    """

    @property
    def at_head(self) -> Objective:
        """Return the loss of the head alone."""
        ...
