"""How much is released in a whole run: what the privacy loss is composed over."""

import math
from dataclasses import dataclass

# Two probability vectors are never further apart, in Euclidean distance.
SIMPLEX_DIAMETER = math.sqrt(2)


@dataclass(frozen=True)
class Exposure:
    """What clients release, at most, in a run.

    Parameters
    ----------
    num_rounds : int
        Rounds of the run; a client takes part in each, at most.
    num_rows : int
        The most transfer samples that a client answers in a round.
    num_classes : int
        C.
    num_clients : int
        N.
    epochs, batch_size : int
        How a client trains on its private data in a round.
    num_examples : tuple[int, ...], optional
        The training examples of every client, where all of them are known: in a simulation, and of one's own.
    sensitivity : float
        How far apart two soft labels of one sample can be, in Euclidean distance.
    secure : bool
        Whether draws that back a guarantee come from the operating system.
    """

    num_rounds: int
    num_rows: int
    num_classes: int
    num_clients: int
    epochs: int
    batch_size: int
    num_examples: tuple[int, ...] | None = None
    sensitivity: float = SIMPLEX_DIAMETER
    secure: bool = True
