"""The figure of a comparison: accuracy on own against accuracy on global test data, fit for a paper."""

from typing import TYPE_CHECKING

from fedfuse.compare.comparison import Comparison, Row
from fedfuse.compare.table import format_setting
from fedfuse.report.figures import BLUE, GREY, ONE_COLUMN, RED, TWO_COLUMNS, paper_style

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

YELLOW = "#DDAA33"  # the third of the scheme of the other figures
COLOURS = (GREY, BLUE, RED, YELLOW)
MARKERS = "osD^v<>pP*X"  # their number has no divisor in common with that of the colours: 44 methods look different
MOST_PANELS_A_ROW = 3
PANEL_HEIGHT = 2.3  # inches


@paper_style
def draw_comparison(comparison: Comparison) -> "Figure":
    """Draw a point a method, with its standard deviation over seeds to each side, in a panel a setting.

    A method of which one of both accuracies is unknown has no point.
    """
    from matplotlib.figure import Figure

    num_columns = min(len(comparison.blocks), MOST_PANELS_A_ROW)
    num_rows = -(-len(comparison.blocks) // num_columns)
    width = ONE_COLUMN if num_columns == 1 else TWO_COLUMNS
    methods = list(dict.fromkeys(row.method for block in comparison.blocks for row in block.rows))
    figure = Figure(figsize=(width, 0.5 + PANEL_HEIGHT * num_rows))
    panels = figure.subplots(num_rows, num_columns, squeeze=False, sharex=True, sharey=True)
    for panel in panels.flat[len(comparison.blocks) :]:
        panel.set_visible(False)
    handles: dict[str, Artist] = {}
    for panel, block in zip(panels.flat, comparison.blocks, strict=False):
        if block.setting:
            panel.set_title(format_setting(block.setting), wrap=True)
        for row in block.rows:
            _draw_method(panel, row, methods.index(row.method))
        # The marks alone: with their bars they could not be told apart at the size of a legend.
        handles |= {str(one.get_label()): one[0] for one in panel.containers}
    figure.supxlabel("accuracy on global test data (%)", fontsize=8)
    figure.supylabel("accuracy on own test data (%)", fontsize=8)
    named = [method for method in methods if method in handles]
    if named:
        figure.legend(
            [handles[method] for method in named],
            named,
            loc="outside upper center",
            ncols=min(len(named), 3 if width == ONE_COLUMN else 6),
            columnspacing=1.2,
            handletextpad=0.2,
        )
    return figure


def _draw_method(panel: "Axes", row: Row, number: int) -> None:
    own, general = row.estimates["own_test"], row.estimates["global_test"]
    if own is None or general is None:
        return
    panel.errorbar(
        100 * general.mean,
        100 * own.mean,
        xerr=None if general.std is None else 100 * general.std,
        yerr=None if own.std is None else 100 * own.std,
        fmt=MARKERS[number % len(MARKERS)],
        color=COLOURS[number % len(COLOURS)],
        markersize=5.5,
        markeredgecolor="white",
        markeredgewidth=0.5,
        elinewidth=0.8,
        capsize=1.5,
        label=row.method,
    )
