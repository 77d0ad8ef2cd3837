"""What every way to write soft labels into a message looks like to client and server."""

from typing import Protocol

import torch

from fedfuse.knowledge import Tensors


class Encoding(Protocol):
    """Write soft labels into the tensors of a message and read them back; both ends of a run have the same one."""

    @property
    def compact(self) -> bool:
        """Whether it is there to save bytes: then the rows that are asked for travel as bits."""
        ...

    def encode(self, tensors: Tensors, num_transfer: int) -> Tensors:
        """Write soft labels.

        Parameters
        ----------
        tensors : Tensors
            ``soft_labels`` ``[R, C]``, and ``rows`` (int32 ``[R]``, ascending) where they are not the whole set.
        num_transfer : int
            M, the size of the transfer set.

        Returns
        -------
        Tensors
            What travels.

        Raises
        ------
        InvalidKnowledgeError
            If the soft labels are not finite, or a row has nothing above zero.
        """
        ...

    def decode(self, tensors: Tensors, num_transfer: int, num_classes: int, dtype: torch.dtype) -> Tensors:
        """Read what `encode` wrote; from the wire, so it is untrusted.

        Raises
        ------
        InvalidKnowledgeError
            If no soft labels are written like this.
        """
        ...
