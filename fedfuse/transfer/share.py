"""How many rows a share of rows is."""

import math


def rows_in(fraction: float, number: int) -> int:
    """Return this share of so many rows, rounded up; at least one row, unless there are none."""
    # The tiny subtraction keeps 0.07 * 100 = 7.000000000000001 from becoming eight rows.
    return min(number, max(1, math.ceil(fraction * number - 1e-9)))
