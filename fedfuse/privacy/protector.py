"""What every step of ``protect`` looks like to a client."""

from typing import ClassVar, Protocol

import numpy as np
from torch import Tensor

from fedfuse.privacy.guarantee import Guarantee


class Protector(Protocol):
    """Make soft labels safer to send, on the client, before they leave it.

    Attributes
    ----------
    carrier : str
        The kind of knowledge it protects.
    needs_reference : bool
        Whether it compares with the fused soft labels that the client received last.
    """

    carrier: ClassVar[str]
    needs_reference: bool

    def guarantee(self) -> Guarantee:
        """State what is promised."""
        ...

    def __call__(self, soft_labels: Tensor, reference: Tensor | None, generator: np.random.Generator) -> Tensor:
        """Return protected probabilities.

        Parameters
        ----------
        soft_labels : Tensor
            ``[R, C]``, rows sum to one.
        reference : Tensor, optional
            ``[R, C]``: the last fused soft labels for the same samples, if there are any yet.
        generator : numpy.random.Generator
            The stream of this client and round. It backs no guarantee.
        """
        ...
