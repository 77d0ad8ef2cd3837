import torch

from fedfuse.benchmark import matrix_product
from fedfuse.benchmark.cells import Cell


class Turn:
    """One turn, whose operations are noted."""

    def take_all(self, operations, work):
        self.operations = operations
        work()


def test_as_many_operations_are_told_as_products_are_computed(monkeypatch):
    turn, computed = Turn(), []
    monkeypatch.setattr(torch, "mm", lambda first, second: computed.append((*first.shape, second.shape[1])))
    matrix_product.compete(Cell("mlp64", "training", 1, 1), turn)
    assert set(computed) == {(1024, 1024, 1024)}
    assert turn.operations == sum(2 * rows * inner * columns for rows, inner, columns in computed)
