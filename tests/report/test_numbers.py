import pytest

from fedfuse.report.numbers import (
    count,
    gain_cell,
    number_cell,
    percent_cell,
    signed_points,
    statistic_of,
    weight_cell,
)
from fedfuse.report.page import Cell


def test_one_is_singular():
    assert [count(number, "round") for number in (0, 1, 2)] == ["0 rounds", "1 round", "2 rounds"]


@pytest.mark.parametrize(("gain", "shown"), [(0.051, "+5.1"), (-0.2, "\N{MINUS SIGN}20.0"), (-0.0001, "+0.0")])
def test_points_have_the_sign_of_print(gain, shown):
    assert signed_points(gain) == shown


def test_there_is_no_statistic_without_a_spread():
    assert statistic_of({"mean": 0.5}, "mean") == 0.5
    assert statistic_of(None, "mean") is None


def test_cells_of_known_values_can_be_sorted_by_all_their_digits():
    assert number_cell(12) == Cell("12")
    assert percent_cell(0.91234) == Cell("91.2", 0.91234)
    assert gain_cell(0.05) == Cell("+5.0", 0.05, "good")
    assert gain_cell(-0.05) == Cell("\N{MINUS SIGN}5.0", -0.05, "bad")
    assert gain_cell(-0.0001) == Cell("+0.0", -0.0001)
    assert weight_cell(0.123) == Cell("0.1230", 0.123)


def test_cells_of_unknown_values_are_dashes():
    assert number_cell(None) == percent_cell(None) == gain_cell(None) == Cell("-")
