"""Draw Gaussian whole numbers from secret random bytes, many at a time, as exactly as they are accounted for.

A guarantee proved for real numbers does not hold for floating-point ones: which of them can come out depends on the
value that is hidden, and tells it (Mironov, "On significance of the least significant bits for differential privacy",
CCS 2012). Whole numbers have no such gaps.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cache

import numpy as np
from numpy.typing import NDArray

from fedfuse.privacy.keystream import Keystream

# The standard deviation of the draws, unless another one is asked for: whoever can takes it as the unit.
DEVIATION = 256
# What lies beyond so many deviations weighs less than 2**-139, and is left out.
DEVIATIONS = 14
LARGEST = DEVIATIONS * DEVIATION
# Probabilities are kept in so many bits, of which most draws need the first ones only.
BITS, FIRST_BITS = 192, 64
# Enough decimal digits for all of them, with 60 bits to spare for rounding.
DIGITS = 76


@dataclass(frozen=True)
class Table:
    """The probabilities of the draws from the smallest one up.

    Parameters
    ----------
    cumulative : list[int]
        How likely a draw is at most the smallest one, the next one, ..., in units of ``2**-192``; the last one, which
        is certain, is left out.
    first : NDArray
        uint64: the first 64 bits of each.
    """

    cumulative: list[int]
    first: NDArray[np.uint64]


@cache
def table(deviation: Fraction = Fraction(DEVIATION)) -> Table:
    """Compute the probabilities, each off by less than ``2**-190``."""
    largest = math.ceil(DEVIATIONS * deviation)
    top, bottom = (2 * deviation**2).as_integer_ratio()
    with localcontext() as context:
        context.prec = DIGITS
        half = [(Decimal(-(value**2) * bottom) / top).exp() for value in range(largest + 1)]
        weights = [*half[:0:-1], *half]
        unit = Decimal(2**BITS) / sum(weights)
        cumulative, weight = [], Decimal(0)
        for value in weights[:-1]:
            weight += value
            cumulative.append(int(weight * unit))
    first = np.array([value >> (BITS - FIRST_BITS) for value in cumulative], dtype=np.uint64)
    return Table(cumulative, first)


def draw(number: int, keystream: Keystream, deviation: Fraction = Fraction(DEVIATION)) -> NDArray[np.int64]:
    r"""Draw from the discrete Gaussian: z is as likely as :math:`e^{-z^2 / 2 \sigma^2}`, for every whole number z.

    A draw is the number whose share of [0, 1) a uniform number falls in. Its first 64 bits say which, unless a border
    between two shares begins with the same ones; then 128 more bits decide. Every draw is within ``2**-128`` of the
    distribution, in total variation: less than any delta can tell.

    Source: Canonne, Kamath and Steinke, NeurIPS 2020 (arXiv 2004.00010), for the distribution; sampling by inversion
    of a table, rather than by rejection as there, is what NumPy can do for all draws at once.

    Parameters
    ----------
    number : int
        How many.
    keystream : Keystream
        Where the bits come from.
    deviation : Fraction
        Sigma, at least 256: the table has 28 entries for each unit of it.

    Returns
    -------
    NDArray
        int64 ``[number]``, of mean zero and standard deviation sigma.
    """
    known = table(deviation)
    bits = keystream.integers(number)
    # How many borders a draw lies above.
    above = np.searchsorted(known.first, bits, side="right").astype(np.int64)
    undecided = (above > 0) & (known.first[above - 1] == bits)
    for index in np.flatnonzero(undecided):
        more = int.from_bytes(keystream.bytes((BITS - FIRST_BITS) // 8), "big")
        above[index] = bisect_right(known.cumulative, (int(bits[index]) << (BITS - FIRST_BITS)) | more)
    return above - len(known.cumulative) // 2
