"""What every step of ``protect`` looks like to a client."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
from torch import Tensor

from fedfuse.privacy.exposure import Exposure
from fedfuse.privacy.guarantee import Guarantee
from fedfuse.privacy.keystream import Keystream

# What a step of the chain is: it replaces the training's gradient steps; keeps soft labels within a radius of the
# uniform distribution; draws noise that is accounted; or makes attacks harder, with no guarantee.
Role = Literal["training", "bound", "mechanism", "heuristic"]


@dataclass(frozen=True)
class Context:
    """What a protector may look at besides the soft labels.

    Parameters
    ----------
    rows : Tensor
        int64 ``[R]``: which transfer samples the soft labels are about.
    num_transfer : int
        M, the size of the transfer set.
    reference : Tensor, optional
        ``[R, C]``: the last fused soft labels for the same samples, if there are any yet.
    likeness : Callable[[], Tensor]
        Computes, when called, how likely each sample is to come from the client's own data rather than from the
        transfer set: ``[R]``, in [0, 1]. It tells of private data.
    radius : float, optional
        How far from the uniform distribution the soft labels are at most, where the step before has seen to it.
    generator : numpy.random.Generator
        The stream of this client, round and step. It backs no guarantee.
    keystream : Keystream
        The stream of this client, message and step for draws that back one.
    """

    rows: Tensor
    num_transfer: int
    reference: Tensor | None
    likeness: Callable[[], Tensor]
    radius: float | None
    generator: np.random.Generator
    keystream: Keystream


class Protector(Protocol):
    """Make soft labels safer to send, on the client, before they leave it.

    Attributes
    ----------
    carrier : str
        The kind of knowledge it protects.
    role : Role
        What kind of step it is; see `fedfuse.privacy.chain` for what may follow what.
    needs_reference : bool
        Whether it compares with the fused soft labels that the client received last.
    uses_private_data : bool
        Whether it looks at the client's data once more, which no guarantee before it covers.
    """

    carrier: ClassVar[str]
    role: ClassVar[Role]
    needs_reference: bool
    uses_private_data: bool

    def guarantee(self, exposure: Exposure, num_rounds: int) -> Guarantee:
        """State what is promised of all that leaves a client in so many rounds of the run, this one included."""
        ...

    def __call__(self, soft_labels: Tensor, context: Context) -> Tensor:
        """Return protected probabilities.

        Parameters
        ----------
        soft_labels : Tensor
            ``[R, C]``, rows sum to one.
        context : Context
            What else it may look at.
        """
        ...
