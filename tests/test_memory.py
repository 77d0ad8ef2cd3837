import weakref

import pytest
import torch

from fedfuse.memory import empty, given_up, zeros


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_memory_has_the_shape_and_type_asked_for_and_can_be_written(dtype):
    for tensor in (empty(2, 3, dtype=dtype), zeros(2, 3, dtype=dtype)):
        assert (tuple(tensor.shape), tensor.dtype) == ((2, 3), dtype)
        tensor.fill_(2)
        assert tensor.sum() == 12
    assert (zeros(5, 7, dtype=dtype) == 0).all()


def test_what_is_given_up_comes_in_order_and_is_held_no_longer():
    items = [torch.tensor(number) for number in range(3)]
    watched = [weakref.ref(item) for item in items]
    given = given_up(items)
    del items
    for item in given:
        position = int(item)
        del item
        assert [reference() is None for reference in watched] == [number <= position for number in range(3)]
    assert position == 2


def test_a_list_that_somebody_holds_stays_as_it_is():
    items = [1, 2, 3]
    assert list(given_up(items)) == [1, 2, 3]
    assert items == [1, 2, 3]
