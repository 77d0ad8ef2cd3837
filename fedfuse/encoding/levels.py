"""Probabilities as whole numbers with a fixed sum, so that what is read back is on the simplex."""

import numpy as np
from numpy.typing import NDArray


def to_levels(probabilities: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Round rows that sum to one to whole numbers that sum to a total, by largest remainders.

    Every number is rounded down, and those that lost most are then rounded up (of equals the first), as many as the
    total needs: none is off by a whole level.

    Parameters
    ----------
    probabilities : ndarray
        ``[R, K]``, not negative; rows are divided by their sum.
    total : int
        What a row of levels sums to.
    """
    exact = probabilities / probabilities.sum(1, keepdims=True) * total
    levels: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    order = np.argsort(levels - exact, axis=1, kind="stable")
    lacking = total - levels.sum(1, keepdims=True)
    raised = (np.arange(levels.shape[1]) < lacking).astype(np.int64)
    np.put_along_axis(levels, order, np.take_along_axis(levels, order, 1) + raised, 1)
    return levels
