"""The figure of the benchmark: how many times as quick as the plain loop everybody is, fit for a paper."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedfuse.benchmark.cells import WORKS
from fedfuse.benchmark.contestants import CONTESTANTS, PLAIN_LOOP, PRODUCT
from fedfuse.benchmark.measured import Measured, Outcome, spread
from fedfuse.report.figures import BLUE, GREY, RED, TWO_COLUMNS, paper_style

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED = [name for name in CONTESTANTS if name not in (PLAIN_LOOP, PRODUCT)]
# Blue is fedfuse, whatever of it; its marks differ.
LOOKS = dict(zip(NAMED, ((BLUE, "o"), (BLUE, "s"), (GREY, "^"), (BLUE, "D"), (BLUE, "P"), (RED, "v")), strict=True))
PANEL_HEIGHT = 1.5  # inches
WIDTH_OF_A_NUMBER = 0.6  # of the distance between two numbers of clients: what their marks spread over


@paper_style
def draw_outcomes(outcomes: Sequence[Outcome]) -> "Figure":
    """Draw a panel for each model and work, with a mark for each contestant at each number of clients.

    Bars reach from the smallest to the largest ratio. A hollow mark has a time in it that was scaled.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator

    models = list(dict.fromkeys(outcome.cell.model for outcome in outcomes))
    works = [work for work in WORKS if any(outcome.cell.work == work for outcome in outcomes)]
    numbers = sorted({outcome.cell.clients for outcome in outcomes})
    figure = Figure(figsize=(TWO_COLUMNS, 0.9 + PANEL_HEIGHT * len(models)))
    panels = figure.subplots(len(models), len(works), squeeze=False, sharex=True, sharey=True)
    handles: dict[str, Artist] = {}
    for row, model in enumerate(models):
        for column, work in enumerate(works):
            panel: Axes = panels[row, column]
            panel.set_yscale("log")
            panel.yaxis.set_major_locator(LogLocator())
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            panel.axhline(1, color=GREY, linewidth=0.8)
            panel.set_xticks(range(len(numbers)), [f"{number:,}" for number in numbers])
            panel.set_xlim(-0.5, len(numbers) - 0.5)
            panel.set_title(f"{model}, {WORKS[work]}")
            for outcome in outcomes:
                if (outcome.cell.model, outcome.cell.work) == (model, work):
                    handles |= _draw_cell(panel, numbers.index(outcome.cell.clients), outcome)
    figure.supxlabel("clients", fontsize=8)
    figure.supylabel("times the plain loop", fontsize=8)
    named = [name for name in NAMED if name in handles]
    if named:
        figure.legend([handles[name] for name in named], named, loc="outside upper center", ncols=3)
    return figure


def _draw_cell(panel: "Axes", position: int, outcome: Outcome) -> dict[str, "Artist"]:
    reference = outcome.find(PLAIN_LOOP)
    found = [one for one in outcome.contestants if one.contestant in LOOKS and outcome.ratios(one.contestant)]
    return {
        one.contestant: _draw_mark(
            panel,
            position + WIDTH_OF_A_NUMBER * ((row + 0.5) / len(found) - 0.5),
            outcome,
            one,
            one.is_scaled or (reference is not None and reference.is_scaled),
        )
        for row, one in enumerate(found)
    }


def _draw_mark(panel: "Axes", across: float, outcome: Outcome, one: Measured, hollow: bool) -> "Artist":
    middle, low, high = spread(outcome.ratios(one.contestant))
    colour, marker = LOOKS[one.contestant]
    panel.errorbar(
        across,
        middle,
        yerr=[[middle - low], [high - middle]],
        fmt=marker,
        color=colour,
        markerfacecolor="white" if hollow else colour,
        markersize=5,
        markeredgewidth=0.9,
        elinewidth=0.8,
        capsize=1.5,
        label=one.contestant,
    )
    # What the legend shows, whether the mark is hollow or not.
    (mark,) = panel.plot([], [], linestyle="none", marker=marker, color=colour, markersize=5)
    return mark
