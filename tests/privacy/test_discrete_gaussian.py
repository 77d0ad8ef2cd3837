import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from fedfuse.privacy import discrete_gaussian
from fedfuse.privacy.discrete_gaussian import BITS, DEVIATION, FIRST_BITS, LARGEST, draw, table
from fedfuse.privacy.keystream import Keystream


def stream(*first, more=b""):
    """A keystream of known bits: first 64 for every draw, then more for those that need them."""
    given = iter([more])
    return SimpleNamespace(
        integers=lambda number: np.array(first, dtype=np.uint64),
        bytes=lambda number: next(given)[:number],
    )


def density(value):
    # The normaliser is sigma times the square root of two pi, up to a relative 1e-500000 (Poisson's summation).
    return math.exp(-(value**2) / (2 * DEVIATION**2)) / (DEVIATION * math.sqrt(2 * math.pi))


def test_shares_are_those_of_the_distribution_also_in_the_tail():
    cumulative = table().cumulative
    assert len(cumulative) == 2 * LARGEST
    assert cumulative == sorted(cumulative)
    for value in (0, 1, -1, 255, -1024, 2000, -3000, 1 - LARGEST):
        share = cumulative[value + LARGEST] - cumulative[value + LARGEST - 1]
        assert share / 2**BITS == pytest.approx(density(value), rel=1e-13)
    assert cumulative[0] / 2**BITS == pytest.approx(density(-LARGEST), rel=1e-12)


def test_entries_are_exact_to_the_last_bits():
    # In whole numbers alone: the exponential of a fraction by its series, in 400 bits.
    one = 1 << 400

    def exponential(numerator, denominator):
        term = total = one
        for order in range(1, 1000):
            term = term * numerator // (denominator * order)
            total += term
        return one * one // total

    weights = [exponential(value**2, 2 * DEVIATION**2) for value in range(LARGEST + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    below_zero = sum(weights[1:])
    for value in (-LARGEST, -2000, -1):
        expected = (sum(weights[-value:]) << BITS) // total
        assert abs(table().cumulative[value + LARGEST] - expected) <= 2
    assert abs(table().cumulative[LARGEST] - ((below_zero + weights[0]) << BITS) // total) <= 2
    # What the table leaves out: less than two geometric series from the first weight that it lacks.
    left_out = 2 * exponential((LARGEST + 1) ** 2, 2 * DEVIATION**2) * DEVIATION
    assert left_out / total < 2**-139


def test_first_bits_are_those_of_the_shares():
    known = table()
    assert known.first.dtype == np.uint64
    assert [int(first) for first in known.first] == [exact >> 128 for exact in known.cumulative]


def test_a_draw_is_the_number_whose_share_its_bits_fall_in():
    first = table().first
    for value in (-1500, -1, 0, 1, 700):
        start, end = int(first[value + LARGEST - 1]), int(first[value + LARGEST])
        assert draw(3, stream(start + 1, (start + end) // 2, end - 1)).tolist() == [value] * 3


@pytest.mark.parametrize("value", [-1500, 0, 700])
def test_bits_on_a_border_are_decided_by_more_of_them(value):
    border = table().cumulative[value + LARGEST]
    first, rest = divmod(border, 1 << (BITS - FIRST_BITS))
    assert rest > 0
    assert draw(1, stream(first, more=(rest - 1).to_bytes(16, "big"))).tolist() == [value]
    assert draw(1, stream(first, more=rest.to_bytes(16, "big"))).tolist() == [value + 1]


def test_the_tails_are_decided_by_more_bits():
    zeros, ones = bytes(16), b"\xff" * 16
    assert draw(1, stream(0, more=zeros)).tolist() == [-LARGEST]
    assert draw(1, stream(2**64 - 1, more=ones)).tolist() == [LARGEST]
    # With 64 bits of zero and 128 of one, a number lies just below 2**-64, nine deviations away.
    (far,) = draw(1, stream(0, more=ones)).tolist()
    assert table().cumulative[far + LARGEST - 1] <= 2**128 - 1 < table().cumulative[far + LARGEST]
    assert -9.3 < far / DEVIATION < -8.9


def test_more_bits_are_drawn_for_those_that_need_them_only():
    drawn = []

    class Counted(Keystream):
        def bytes(self, number):
            drawn.append(number)
            return super().bytes(number)

    draw(1000, Counted(bytes(32), "count"))
    assert drawn == [8000]


def test_draws_have_the_frequencies_of_the_distribution():
    number = 200_000
    draws = draw(number, Keystream(bytes(32), "frequencies"))
    assert draws.dtype == np.int64
    edges = np.arange(-3 * DEVIATION, 3 * DEVIATION + 1, DEVIATION // 8)
    observed = np.histogram(draws, [-np.inf, *edges, np.inf])[0]
    cumulative = [table().cumulative[edge + LARGEST - 1] / 2**BITS for edge in edges]
    expected = number * np.diff([0, *cumulative, 1])
    from scipy.stats import chi2

    assert chi2.sf(((observed - expected) ** 2 / expected).sum(), len(expected) - 1) > 0.01
    # Neighbours too: a sampler that left out every other number would pass the coarse test.
    near = np.bincount(draws[abs(draws) <= 64] + 64, minlength=129)
    wanted = number * np.array([density(value) for value in range(-64, 65)])
    assert chi2.sf(((near - wanted) ** 2 / wanted).sum(), 128) > 0.01


def test_moments_and_dependence_are_those_of_independent_draws():
    draws = draw(200_000, Keystream(bytes(32), "moments")) / DEVIATION
    # Five standard errors.
    assert abs(draws.mean()) < 5 / math.sqrt(200_000)
    assert abs((draws**2).mean() - 1) < 5 * math.sqrt(2 / 200_000)
    assert abs((draws**4).mean() - 3) < 5 * math.sqrt(96 / 200_000)
    assert abs((draws[1:] * draws[:-1]).mean()) < 5 / math.sqrt(200_000)


def test_the_stream_decides_the_draws():
    first, again, other = (draw(50, Keystream(bytes(32), name)).tolist() for name in ("a", "a", "b"))
    assert first == again
    assert first != other


def test_nothing_is_drawn_for_nothing():
    assert draw(0, Keystream(bytes(32), "none")).shape == (0,)


def test_the_table_is_computed_once():
    assert discrete_gaussian.table() is discrete_gaussian.table()


@pytest.mark.parametrize("deviation", [Fraction(600, 2), Fraction(1201, 3)])
def test_another_deviation_has_a_table_of_its_own(deviation):
    cumulative, largest = table(deviation).cumulative, math.ceil(14 * deviation)
    assert len(cumulative) == 2 * largest
    for value in (0, 1, -500, 1500):
        share = (cumulative[value + largest] - cumulative[value + largest - 1]) / 2**BITS
        expected = math.exp(-(value**2) / (2 * deviation**2)) / (deviation * math.sqrt(2 * math.pi))
        assert share == pytest.approx(float(expected), rel=1e-12)
    middle = int(table(deviation).first[largest - 1]) + 1
    assert draw(1, stream(middle), deviation).tolist() == [0]
