import pytest

from fedfuse.transfer.share import rows_in


@pytest.mark.parametrize(
    ("fraction", "number", "expected"),
    [
        (0.5, 10, 5),
        (0.5, 11, 6),
        (1, 7, 7),
        (1e-12, 10, 1),
        # In floating point 0.07 * 100 and 0.55 * 100 are a little more than 7 and 55.
        (0.07, 100, 7),
        (0.55, 100, 55),
        (0.551, 100, 56),
        (0.5, 0, 0),
        (1, 0, 0),
    ],
)
def test_a_share_is_rounded_up_and_is_at_least_one_row_where_there_is_one(fraction, number, expected):
    assert rows_in(fraction, number) == expected
