"""What the server offers to a strategy beside the clients' knowledge."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedfuse.models.architecture import Architecture
from fedfuse.randomness import numpy_generator, torch_seed


@dataclass(frozen=True)
class Server:
    """The server's own means; none of them is a client's secret.

    Parameters
    ----------
    seed : int
        The seed of the run.
    transfer_inputs : Tensor
        ``[M, *shape]``, unlabelled.
    transfer_digest : str
        Its hash, which every client's copy must have.
    class_names : tuple[str, ...]
        The C classes.
    architectures : Mapping[str, Architecture]
        The configured architectures by signature.
    dtype : torch.dtype
        Of models and of what is sent.
    transfer_rows : Callable
        The transfer policy: ``(num_samples, generator) -> rows``.
    """

    seed: int
    transfer_inputs: Tensor
    transfer_digest: str
    class_names: tuple[str, ...]
    architectures: Mapping[str, Architecture]
    dtype: torch.dtype
    transfer_rows: Callable[[int, np.random.Generator], Tensor]

    @property
    def num_transfer(self) -> int:
        """M, the size of the transfer set."""
        return len(self.transfer_inputs)

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return len(self.class_names)

    def generator(self, purpose: str, round: int = 0) -> np.random.Generator:
        """Make a random stream for a strategy's own draws."""
        return numpy_generator(self.seed, f"strategy {purpose}", round)

    def build(self, architecture: str) -> nn.Module:
        """Build a model of one of the configured architectures, with initial weights drawn from the seed.

        Raises
        ------
        KeyError
            If no configured model has this signature.
        """
        chosen = self.architectures[architecture]
        module = chosen.module()
        seed = torch_seed(self.seed, "server weights")
        module.to(self.dtype).load_state_dict(chosen.initial_parameters(seed, self.dtype))
        return module
