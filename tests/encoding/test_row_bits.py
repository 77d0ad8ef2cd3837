import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfuse.encoding.row_bits import from_bits, to_bits
from fedfuse.knowledge import InvalidKnowledgeError


def test_a_row_is_a_bit():
    assert to_bits(torch.tensor([0, 2, 9]), 11).tolist() == [0b101, 0b10]
    assert to_bits(torch.tensor([0, 2, 9])).tolist() == [0b101, 0b10]
    assert to_bits(torch.tensor([3], dtype=torch.int32), 40).tolist() == [8, 0, 0, 0, 0]
    assert len(to_bits(torch.arange(1000))) == 125


@settings(deadline=None)
@given(st.sets(st.integers(0, 40)))
def test_rows_come_back_as_they_were(chosen):
    rows = torch.tensor(sorted(chosen), dtype=torch.int64)
    assert torch.equal(from_bits(to_bits(rows, 41), 41), rows)
    assert torch.equal(from_bits(to_bits(rows)), rows)


@pytest.mark.parametrize(
    "bits",
    [
        torch.tensor([1, 2], dtype=torch.int64),
        torch.tensor([[1, 2]], dtype=torch.uint8),
        torch.tensor([1], dtype=torch.uint8),
        torch.tensor([1, 0, 0], dtype=torch.uint8),
        torch.tensor([0, 8], dtype=torch.uint8),  # the twelfth of eleven
    ],
)
def test_what_is_not_the_bits_of_the_transfer_set_is_refused(bits):
    with pytest.raises(InvalidKnowledgeError, match="rows are not"):
        from_bits(bits, 11)
