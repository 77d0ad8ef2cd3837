"""The charts of a report, as markup that takes the colours of the page and tells its numbers under the pointer."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedfuse.report.page import Html, captioned, text

WIDTH, HEIGHT = 440, 260
LEFT, RIGHT, TOP, BOTTOM = 68, 12, 10, 42  # margins around the lines, for ticks and labels
MOST_TICKS = 6

SHADES = 10  # steps from the lightest to the darkest cell of a heat map, as many as the page has colours for
MOST_NUMBERED = 20  # clients a side, so that the number in a cell can be read

WIDE_CELL, NARROW_CELL = 26, 17  # of a bubble chart
MOST_WIDE_CELLS = 20
LONGEST_NAME = 16
CHARACTER = 7.5  # width in the letters of a chart


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Parameters
    ----------
    name : str
        What the legend says.
    points : mapping of int to float
        The known values, by round.
    colour : {"accent", "second", "grey"}
        Those of the page.
    dashes : str
        The lengths of dashes and gaps; empty for a solid line.
    """

    name: str
    points: Mapping[int, float]
    colour: Literal["accent", "second", "grey"]
    dashes: str = ""


def line_chart(
    description: str,
    lines: Sequence[Line],
    notes: Mapping[int, str],
    label: str,
    show: Callable[[float], str],
    from_zero: bool = False,
) -> Html:
    """Draw values by round.

    Parameters
    ----------
    description : str
        What there is to see, for those who do not see it.
    lines : sequence of Line
        At least one with a point; the first is drawn over the others.
    notes : mapping of int to str
        What is shown under the pointer, for each round that can be pointed at.
    label : str
        Of the vertical axis.
    show : callable
        Writes a value at the vertical axis.
    from_zero : bool
        Whether the vertical axis starts at zero, else near the least value.
    """
    rounds = sorted({round for line in lines for round in line.points})
    values = [value for line in lines for value in line.points.values()]
    marks = ticks(0.0 if from_zero else min(values), max(values))
    first, last, low, high = rounds[0], rounds[-1], marks[0], marks[-1]

    def x(round: int) -> float:
        share = (round - first) / (last - first) if last > first else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - BOTTOM - TOP)

    parts = [_horizontal_mark(y(mark), show(mark)) for mark in marks]
    parts += [
        f'<text x="{x(int(mark)):.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{int(mark)}</text>'
        for mark in ticks(first, last, whole=True)
        if first <= mark <= last
    ]
    middle = (HEIGHT - BOTTOM + TOP) / 2
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">round</text>')
    parts.append(f'<text transform="translate(11 {middle}) rotate(-90)" text-anchor="middle">{text(label)}</text>')
    for line in reversed(lines):
        path = " ".join(f"{x(round):.1f},{y(value):.1f}" for round, value in sorted(line.points.items()))
        parts.append(f'<polyline class="line {line.colour}" stroke-dasharray="{line.dashes}" points="{path}"/>')
    parts += [_pointed_at(round, rounds, x, y, lines, note) for round, note in sorted(notes.items())]
    legend = "".join(_legend_item(line) for line in lines)
    return Html(
        f'<ul class="legend">{legend}</ul><svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" aria-label="{text(description)}">{"".join(parts)}</svg>'
    )


def heat_map(caption: str, names: Sequence[str], values: NDArray[Any], corner: str, reading: str) -> Html:
    """Show a square of values from zero up as a table of coloured cells, which the pointer can read.

    Parameters
    ----------
    caption : str
        What the table shows, and how to read it.
    names : sequence of str
        The ``n`` names of the rows, which are those of the columns too.
    values : ndarray
        ``[n, n]``.
    corner : str
        What the rows and the columns are.
    reading : str
        The sentence for a cell, with ``{row}``, ``{column}`` and ``{value}`` in it.
    """
    is_small = len(names) > MOST_NUMBERED
    digits = 4 if is_small else 3
    largest = max(float(np.nan_to_num(values).max()), np.finfo(float).tiny)
    shades = np.round(SHADES * np.clip(np.nan_to_num(values / largest), 0, 1)).astype(int)
    header = "".join(f'<th scope="col">{text(name)}</th>' for name in names)
    rows = "".join(
        f'<tr><th scope="row">{text(name)}</th>'
        + "".join(
            f"<td class=s{shade}>{value:.{digits}f}" for shade, value in zip(shades[row], values[row], strict=True)
        )
        + "</tr>\n"
        for row, name in enumerate(names)
    )
    size = " small" if is_small else ""
    scale = "".join(f'<span class="s{shade}"></span>' for shade in range(SHADES + 1))
    matrix = captioned(
        caption,
        Html(
            f'<table class="matrix{size}" data-reading="{text(reading)}"><thead><tr><td>{text(corner)}</td>{header}'
            f"</tr></thead>\n<tbody>{rows}</tbody></table>"
        ),
    )
    return Html(f'{matrix}<p class="scale" aria-hidden="true">0 <span>{scale}</span> {largest:.{digits}f}</p>')


def bubble_chart(
    caption: str, description: str, columns: Sequence[str], rows: Sequence[str], counts: NDArray[Any], label: str
) -> Html:
    """Draw counts as bubbles, whose areas they are.

    Parameters
    ----------
    caption : str
        How to read the chart.
    description : str
        What there is to see, for those who do not see it.
    columns, rows : sequence of str
        Their names.
    counts : ndarray
        ``[rows, columns]``, whole numbers of at least 0.
    label : str
        What the columns are, such as ``client``.
    """
    names = [
        name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}\N{HORIZONTAL ELLIPSIS}" for name in rows
    ]
    cell = WIDE_CELL if len(columns) <= MOST_WIDE_CELLS else NARROW_CELL
    left = 16 + CHARACTER * max(map(len, names))
    width, height = left + cell * len(columns) + 4, cell * len(rows) + 44
    largest = max(1, int(counts.max()))

    def centre(row: int, column: int) -> tuple[float, float]:
        return left + cell * (column + 0.5), 4 + cell * (len(rows) - row - 0.5)

    parts = []
    for row, name in enumerate(names):
        _, y = centre(row, 0)
        parts.append(f'<line class="grid" x1="{left:.0f}" x2="{width - 4:.0f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 8:.0f}" y="{y + 4:.1f}" text-anchor="end">{text(name)}</text>')
    step = math.ceil((CHARACTER * max(map(len, columns)) + 4) / cell)  # so that neighbouring names do not touch
    for column in range(0, len(columns), step):
        x, name = centre(0, column)[0], columns[column]
        parts.append(f'<text x="{x:.1f}" y="{height - 26:.0f}" text-anchor="middle">{text(name)}</text>')
    parts.append(f'<text x="{(left + width) / 2:.0f}" y="{height - 6:.0f}" text-anchor="middle">{text(label)}</text>')
    for row, column in np.argwhere(counts > 0).tolist():
        x, y = centre(row, column)
        radius = (cell / 2 - 1) * math.sqrt(counts[row, column] / largest)
        note = f"{label} {columns[column]}, {rows[row]}: {counts[row, column]}"
        parts.append(
            f'<circle class="bubble" cx="{x:.1f}" cy="{y:.1f}" r="{max(1.0, radius):.1f}" data-note="{text(note)}"/>'
        )
    return captioned(
        caption,
        Html(
            f'<svg class="chart unscaled" width="{width:.0f}" height="{height:.0f}" role="img" '
            f'aria-label="{text(description)}">{"".join(parts)}</svg>'
        ),
    )


def ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Choose up to six round numbers, evenly spaced, that reach from below a range to above it."""
    span = high - low
    if span <= 0:
        span = abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / MOST_TICKS))
    steps = (factor * power for factor in (1, 2, 5, 10, 20))
    step = next(step for step in steps if _number_of_ticks(low, high, step) <= MOST_TICKS)
    if whole:
        step = max(1.0, step)
    first = math.floor(low / step + 1e-9)
    last = max(first + 1, math.ceil(high / step - 1e-9))
    return [round(number * step, 12) for number in range(first, last + 1)]


def _number_of_ticks(low: float, high: float, step: float) -> int:
    return math.ceil(high / step - 1e-9) - math.floor(low / step + 1e-9) + 1


def _horizontal_mark(y: float, words: str) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{text(words)}</text>'
    )


def _pointed_at(
    round: int,
    rounds: Sequence[int],
    x: Callable[[int], float],
    y: Callable[[float], float],
    lines: Sequence[Line],
    note: str,
) -> str:
    """Make the strip of a round: under the pointer it shows a rule and the points of the round."""
    half = (WIDTH - LEFT - RIGHT) / (2 * max(1, len(rounds) - 1))
    start, end = max(LEFT, x(round) - half), min(WIDTH - RIGHT, x(round) + half)
    dots = "".join(
        f'<circle class="{line.colour}" cx="{x(round):.1f}" cy="{y(line.points[round]):.1f}" r="3.5"/>'
        for line in lines
        if round in line.points
    )
    is_only = ' class="only"' if len(rounds) == 1 else ""
    return (
        f'<g data-note="{text(note)}"{is_only}>'
        f'<rect x="{start:.1f}" y="{TOP}" width="{end - start:.1f}" height="{HEIGHT - BOTTOM - TOP}"/>'
        f'<line x1="{x(round):.1f}" x2="{x(round):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>{dots}</g>'
    )


def _legend_item(line: Line) -> str:
    return (
        '<li><svg width="28" height="10" aria-hidden="true">'
        f'<line class="line {line.colour}" stroke-dasharray="{line.dashes}" x1="0" x2="28" y1="5" y2="5"/></svg>'
        f"{text(line.name)}</li>"
    )
