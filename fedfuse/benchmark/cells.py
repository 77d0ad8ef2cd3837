"""What is measured: a cell is one kind of work, of so many clients with one model."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

TRAINING, DISTILLATION, ROUND = "training", "distillation", "round"
WORKS = {
    TRAINING: "local training",
    DISTILLATION: "distillation",
    ROUND: "whole KnFu round",
}

NUM_CLASSES = 10
SAMPLES, TRANSFER_SAMPLES = 200, 500
OWN_TEST, VALIDATION, GLOBAL_TEST = 50, 10, 100
BATCH_SIZE, LEARNING_RATE, MOMENTUM = 32, 0.1, 0.5


@dataclass(frozen=True)
class Model:
    """A model, and what of it is measured at most.

    Parameters
    ----------
    shape : tuple[int, ...]
        Of one sample.
    component : str
        The model in the words of a configuration.
    most_one_by_one : int
        So many clients are measured of those that are computed one after the other; of more, the time is scaled.
    most_together : int
        The same where clients are computed together.
    """

    shape: tuple[int, ...]
    component: str
    most_one_by_one: int
    most_together: int


MODELS = {
    "mlp64": Model((64,), "{name: mlp_small, hidden: [64], embedding_size: 32}", 100, 1000),
    "mlp784": Model((784,), "{name: mlp_small, hidden: [], embedding_size: 200}", 50, 200),
    "lenet": Model((1, 28, 28), "lenet", 10, 10),
    "resnet8": Model((3, 32, 32), "resnet8", 2, 2),
}


@dataclass(frozen=True)
class Cell:
    """One kind of work, of so many clients with one model.

    Parameters
    ----------
    model : str
        A name in `MODELS`.
    work : str
        A name in `WORKS`.
    clients : int
        How many clients do it.
    repeats : int
        How often it is measured, after once to warm up.
    """

    model: str
    work: str
    clients: int
    repeats: int


def cells_of(models: Iterable[str], works: Iterable[str], clients: Iterable[int], repeats: int) -> Iterator[Cell]:
    """List all cells, those of one model side by side."""
    works, clients = tuple(works), tuple(clients)
    for model in models:
        for work in works:
            for number in clients:
                yield Cell(model, work, number, repeats)
