"""How numbers stand in a report: words for counts and differences, and the cells of its tables."""

from collections.abc import Mapping

from fedfuse.report.page import Cell
from fedfuse.report.table import UNKNOWN, format_gain, format_percent


def count(number: int, thing: str) -> str:
    """Count things: ``1 round``, ``2 rounds``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def signed_points(gain: float) -> str:
    """Show a difference of fractions in percentage points, with the sign of print: 0.05 is ``+5.0``."""
    return format_gain(gain).replace("-", "\N{MINUS SIGN}")


def statistic_of(spread: Mapping[str, float] | None, statistic: str) -> float | None:
    """Take one number of a spread (see `fedfuse.metrics.Spread`); None where there is no spread."""
    return None if spread is None else spread[statistic]


def number_cell(value: int | None) -> Cell:
    """Make the cell of a whole number."""
    return Cell(UNKNOWN) if value is None else Cell(str(value))


def percent_cell(fraction: float | None) -> Cell:
    """Make the cell of a fraction, which is shown in per cent and sorted by all its digits."""
    return Cell(format_percent(fraction), fraction)


def gain_cell(gain: float | None) -> Cell:
    """Make the cell of a difference of fractions, coloured by its sign."""
    if gain is None:
        return Cell(UNKNOWN)
    shown = signed_points(gain)
    return Cell(shown, gain, "" if shown == "+0.0" else "good" if gain > 0 else "bad")


def weight_cell(weight: float) -> Cell:
    """Make the cell of a share of one."""
    return Cell(f"{weight:.4f}", float(weight))
