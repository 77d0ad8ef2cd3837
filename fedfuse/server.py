"""What the server offers to a strategy beside the clients' knowledge."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedfuse.client.fit import batch_plan, make_optimizer
from fedfuse.configuration import OptimizerSettings, TrainingSettings
from fedfuse.data.samples import as_numbers
from fedfuse.models.architecture import Architecture
from fedfuse.privacy.keystream import KEY_BYTES, Keystream, new_key
from fedfuse.randomness import epoch_order, numpy_generator, torch_seed
from fedfuse.transfer.policy import TransferPolicy

TRAINING = TrainingSettings(epochs=2, batch_size=32, optimizer=OptimizerSettings())


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
    transfer_rows : TransferPolicy
        Chooses the transfer samples of a round.
    labels : Tensor, optional
        int64 ``[L]``: the labels of the first L transfer samples, where the configuration gives the server some.
    training : TrainingSettings
        How long and with which optimiser a server model is trained: as clients are when they absorb.
    secure_rng : bool
        Whether draws that back a guarantee come from the operating system; otherwise from the seed, to simulate.
    """

    seed: int
    transfer_inputs: Tensor
    transfer_digest: str
    class_names: tuple[str, ...]
    architectures: Mapping[str, Architecture]
    dtype: torch.dtype
    transfer_rows: TransferPolicy
    labels: Tensor | None = None
    training: TrainingSettings = TRAINING
    secure_rng: bool = True

    @property
    def num_transfer(self) -> int:
        """M, the size of the transfer set."""
        return len(self.transfer_inputs)

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return len(self.class_names)

    def inputs(self, rows: Tensor) -> Tensor:
        """Return some transfer samples as models take them, ``[R, *shape]``: numbers, in the run's precision."""
        return as_numbers(self.transfer_inputs[rows], self.dtype)

    def generator(self, purpose: str, round: int = 0) -> np.random.Generator:
        """Make a random stream for a strategy's own draws."""
        return numpy_generator(self.seed, f"strategy {purpose}", round)

    def keystream(self, purpose: str, round: int = 0) -> Keystream:
        """Make a stream of secret random bytes, for draws of a strategy that back its guarantee.

        Every call has a new key, so that no draw is ever used for two values; without ``secure_rng`` the seed, the
        purpose and the round decide it.
        """
        seeded = numpy_generator(self.seed, f"strategy {purpose} key", round)
        return Keystream(new_key() if self.secure_rng else seeded.bytes(KEY_BYTES), purpose)

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

    def train(
        self, module: nn.Module, loss: Callable[[Tensor], Tensor], rows: Tensor, purpose: str, round: int = 0
    ) -> None:
        """Train a model of the server's own, in place.

        Parameters
        ----------
        module : nn.Module
            Its parameters are optimised by the configured optimiser, which starts afresh.
        loss : Callable
            From the rows of one batch, int64 ``[B]``, to a scalar.
        rows : Tensor
            int64 ``[R]``: what an epoch visits, for example the transfer samples that were answered.
        purpose : str
            What the training is for; with the round it decides the order of the rows.
        round : int
            The round.
        """
        optimizer = make_optimizer(self.training.optimizer, module.parameters())
        order = rows[epoch_order(self.generator(purpose, round), len(rows), self.training.epochs)]
        module.train()
        for batch in batch_plan(order, self.training.batch_size):
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss(batch[batch >= 0]))
            optimizer.step()
        module.eval()
