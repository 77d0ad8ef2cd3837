"""Pictures of how samples are shared out: clients and classes, of one partition or of several side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from fedfuse.report.figures import (
    BLUE,
    DOTS_PER_INCH,
    TWO_COLUMNS,
    draw_bubbles,
    label_distribution,
    legend_sizes,
    paper_style,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COUNTED = "samples"
MARGIN = 0.45  # inches around the cells of a panel
LARGEST_CELL = 0.2  # inches; larger bubbles would not fit in a legend


def partition_picture(label_counts: NDArray[Any], class_names: Sequence[str]) -> "Figure":
    """Draw how many samples of each class each client has, as the figures of a run do.

    Parameters
    ----------
    label_counts : ndarray
        ``[clients, classes]``.
    class_names : sequence of str
        The name of each class.
    """
    clients = [{"client_id": client, "label_counts": counts} for client, counts in enumerate(label_counts)]
    return label_distribution(clients, class_names, COUNTED)


@paper_style
def partition_panels(partitions: Mapping[str, NDArray[Any]], class_names: Sequence[str]) -> "Figure":
    """Draw several partitions of the same data among equally many clients, two in a row, with bubbles of one scale.

    Parameters
    ----------
    partitions : mapping of str to ndarray
        For each title the counts ``[clients, classes]``.
    class_names : sequence of str
        The name of each class.
    """
    from matplotlib.figure import Figure

    num_clients, num_classes = next(iter(partitions.values())).shape
    largest = max(1, *(int(counts.max()) for counts in partitions.values()))
    num_rows = -(-len(partitions) // 2)
    cell = min(LARGEST_CELL, (TWO_COLUMNS / 2 - MARGIN) / num_clients)  # inches
    area = (72 * cell) ** 2 / largest  # square points a sample: the largest bubble fills its cell
    figure = Figure(figsize=(TWO_COLUMNS, num_rows * (cell * num_classes + 1.5 * MARGIN) + MARGIN))
    grid = figure.subplots(num_rows, 2, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(partitions) :]:
        axes.set_axis_off()
    for axes, (title, counts) in zip(grid.flat, partitions.items(), strict=False):
        draw_bubbles(axes, counts.T, area)
        axes.set_title(title)
        axes.set_xticks(range(num_clients))
        axes.set_yticks(range(num_classes), class_names)
    for axes in grid[-1]:
        axes.set_xlabel("client")
    for axes in grid[:, 0]:
        axes.set_ylabel("class")
    handles = [grid[0, 0].scatter([], [], area * size, BLUE, linewidth=0) for size in legend_sizes(largest)]
    labels = [f"{size} {COUNTED}" for size in legend_sizes(largest)]
    figure.legend(handles, labels, loc="outside upper center", ncols=3, handletextpad=0.3)
    return figure


def write_picture(path: Path, figure: "Figure") -> None:
    """Write a figure as PNG, whole: the same bytes for the same figure."""
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    partial.replace(path)
