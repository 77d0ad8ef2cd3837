import numpy as np
import torch

from fedfuse.transfer.lesson import Lesson
from fedfuse.transfer.where_better import WhereBetter

# Margins 0.6, 0.5, 0 and 0.5.
FUSED = torch.tensor([[0.8, 0.2, 0.0], [0.25, 0.75, 0.0], [0.5, 0.5, 0.0], [0.0, 0.25, 0.75]], dtype=torch.float64)
# Margins 0.5, 0.5, 0.25 and 0.25.
OWN = torch.tensor([[0.25, 0.75, 0.0], [0.75, 0.25, 0.0], [0.5, 0.25, 0.25], [0.0, 0.375, 0.625]], dtype=torch.float64)


def rows_of(rows, fused=FUSED, own=OWN):
    lesson = Lesson(torch.zeros(len(fused), 2), fused, torch.tensor(rows, dtype=torch.int64), own)
    taught, state = WhereBetter()(lesson, {}, 1, np.random.default_rng(0))
    assert state == {}
    return taught.rows.tolist()


def test_rows_are_kept_where_the_fused_margin_is_the_larger_one():
    assert rows_of([0, 1, 2, 3]) == [0, 3]
    assert rows_of([3, 2, 0, 3]) == [3, 0, 3]


def test_where_the_client_is_surer_everywhere_one_row_is_left_in_which_it_is_so_by_least():
    assert rows_of([2, 1]) == [1]
    assert rows_of([2]) == [2]
    assert rows_of([0, 1, 2, 3], own=torch.eye(3, dtype=torch.float64)[[0, 0, 0, 0]]) == [0]


def test_a_client_that_answers_as_the_federation_learns_from_one_row():
    assert rows_of([1, 2, 3], own=FUSED) == [1]


def test_without_rows_none_are_left():
    assert rows_of([]) == []
