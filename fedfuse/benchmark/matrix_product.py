"""What the machine can do: products of two matrices of 1024x1024 float32 numbers, on one thread."""

import torch

from fedfuse.benchmark.cells import Cell
from fedfuse.benchmark.turns import Turns

SIDE = 1024
PRODUCTS = 10  # a turn, because a single one takes some milliseconds


def compete(cell: Cell, turns: Turns) -> None:
    """Multiply, whatever the cell is."""
    first, second = torch.randn(2, SIDE, SIDE)

    def multiply() -> None:
        for _ in range(PRODUCTS):
            torch.mm(first, second)

    turns.take_all(PRODUCTS * 2 * SIDE**3, multiply)
