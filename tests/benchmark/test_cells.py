from fedfuse.benchmark.cells import Cell, cells_of


def test_cells_are_all_combinations_those_of_a_model_side_by_side():
    assert list(cells_of(["a", "b"], ["training"], iter([10, 100]), 3)) == [
        Cell("a", "training", 10, 3),
        Cell("a", "training", 100, 3),
        Cell("b", "training", 10, 3),
        Cell("b", "training", 100, 3),
    ]
