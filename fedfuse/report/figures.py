"""The figures of a run, fit for a paper: one column (3.4 in) or two (7 in) wide, in colour or in grey.

Every figure has a function that draws it and returns it; `draw_figures` draws all that a run has data for.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedfuse import results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

ONE_COLUMN, TWO_COLUMNS = 3.4, 7.0  # inches
DOTS_PER_INCH = 200

# Paul Tol's high-contrast scheme: told apart by all common kinds of colour vision, and by lightness in grey.
BLUE, RED = "#004488", "#BB5566"
GREY = "#666666"

MOST_NAMED_CLIENTS = 20  # on an axis, so that neighbouring ids do not touch
MOST_NUMBERED_CELLS = 12  # a side
MOST_NAMED_CLASSES = 20
HEAT_MAP_WIDTH = 0.75  # of that of its figure
CHARACTERS_AN_INCH = 9  # of figure width, on an axis

COLOUR_MAP = "Blues"  # from light to dark, so that it reads the same in grey

STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.grid": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
    "figure.constrained_layout.use": True,
    "text.parse_math": False,  # a class may be named with a dollar sign
}


def paper_style(draw: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Draw in the style of this module, whatever the user's own matplotlib settings are."""

    @functools.wraps(draw)
    def draw_in_style(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        import matplotlib.style

        with matplotlib.style.context(["default", STYLE]):
            return draw(*args, **kwargs)

    return draw_in_style


@paper_style
def draw_figures(directory: Path, summary: Mapping[str, Any]) -> list[Path]:
    """Draw the figures of a finished run into ``figures`` of its directory; those without data are left out.

    Parameters
    ----------
    directory : Path
        The directory of the run: its ``metrics.jsonl`` and ``relevance.npz`` are read.
    summary : mapping
        Its summary, see `fedfuse.summary.write_summary`.

    Returns
    -------
    list of Path
        The files that were written: the same bytes for the same results.
    """
    figures: dict[str, Figure] = {}
    metrics = results.read_metrics(directory)
    if any(line["personal_mean"] is not None or line["general_mean"] is not None for line in metrics):
        figures["accuracy_by_round"] = accuracy_by_round(metrics, summary["spread"]["local_only"])
    compared = [client for client in summary["clients"] if client["gain"] is not None]
    if compared:
        figures["accuracy_by_client"] = accuracy_by_client(compared)
    counted = [client for client in summary["clients"] if client["label_counts"] is not None]
    if counted:
        figures["label_distribution"] = label_distribution(counted, summary["class_names"])
    latest = results.read_latest_relevance(directory)
    if latest is not None:
        round, relevance, client_ids = latest
        figures["relevance"] = relevance_map(round, relevance, client_ids.tolist())

    (directory / "figures").mkdir(exist_ok=True)
    paths = []
    for name, figure in figures.items():
        path = directory / "figures" / f"{name}.png"
        figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})
        paths.append(path)
    return paths


@paper_style
def accuracy_by_round(
    metrics: Sequence[Mapping[str, Any]], local_only: Mapping[str, Mapping[str, float] | None]
) -> "Figure":
    """Draw the mean accuracy over clients by round, with a band of one standard deviation where it is known.

    Parameters
    ----------
    metrics : sequence of mapping
        The lines of ``metrics.jsonl``.
    local_only : mapping
        The spread of ``personal`` and ``general`` accuracy at the end of the local-only baseline; its means
        are drawn as dashed lines. None where there is no baseline.
    """
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    figure, axes = _figure(ONE_COLUMN, 2.6)
    federated, bands, baseline = [], [], []  # in the order of the legend
    kinds = [("personal", "own test data", BLUE, "o"), ("general", "global test data", RED, "s")]
    for kind, test_data, colour, marker in kinds:
        known = [line for line in metrics if line[f"{kind}_mean"] is not None]
        if known:
            rounds = np.array([line["round"] for line in known])
            mean = 100 * np.array([line[f"{kind}_mean"] for line in known])
            # Where privacy is guaranteed, only means are recorded.
            if all(line[f"{kind}_std"] is not None for line in known):
                std = 100 * np.array([line[f"{kind}_std"] for line in known])
                low, high = np.clip(mean - std, 0, 100), np.clip(mean + std, 0, 100)
                axes.fill_between(rounds, low, high, color=colour, alpha=0.18, linewidth=0)
                bands = [Patch(color=GREY, alpha=0.25, linewidth=0, label="\N{PLUS-MINUS SIGN} std over clients")]
            every, label = max(1, len(rounds) // 10), f"federated, {test_data}"
            federated += axes.plot(rounds, mean, color=colour, marker=marker, markevery=every, label=label)
        reference = local_only[kind]
        if reference is not None:
            style, label = (0, (4, 2)), f"local only, {test_data}"
            height = 100 * reference["mean"]
            baseline.append(axes.axhline(height, color=colour, linestyle=style, linewidth=1, label=label))
    axes.set_xlabel("round")
    axes.set_ylabel("accuracy (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    handles = [*federated, *bands, *baseline]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, columnspacing=1.2, handlelength=2.4)
    return figure


@paper_style
def accuracy_by_client(clients: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draw every client's accuracy on its own test data before and after federation, by accuracy before.

    Parameters
    ----------
    clients : sequence of mapping
        Clients of the summary of which both accuracies are known.
    """
    from matplotlib.ticker import MaxNLocator

    order = sorted(clients, key=lambda client: (client["local_only_accuracy"], client["client_id"]))
    before = 100 * np.array([client["local_only_accuracy"] for client in order])
    after = 100 * np.array([client["personal_accuracy"] for client in order])
    positions = np.arange(1, len(order) + 1)
    worse = after < before
    many = len(order) > MOST_NAMED_CLIENTS
    size, line_width = min(18, 900 / len(order)), min(1.2, 80 / len(order))

    width = TWO_COLUMNS if many else ONE_COLUMN
    figure, axes = _figure(width, 2.5)
    axes.vlines(positions, before, after, color=GREY, linewidth=line_width, zorder=1)
    axes.scatter(positions, before, size, "white", edgecolor=GREY, linewidth=0.8, label="local only")
    axes.scatter(positions[~worse], after[~worse], size, BLUE, label="federated")
    if worse.any():
        axes.scatter(positions[worse], after[worse], size, RED, marker="s", label="federated, worse")
    if many:
        axes.set_xlim(0, len(order) + 1)
        axes.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], prune="lower"))  # there is no rank 0
        axes.set_xlabel("rank of the client by local-only accuracy")
    else:
        _name_clients(axes, width, positions, [client["client_id"] for client in order])
        axes.set_xlabel("client, by local-only accuracy")
    axes.set_ylabel("accuracy on own test data (%)")
    gain, num_gains = np.mean(after - before), np.sum(after > before)
    axes.set_title(f"mean gain {gain:+.1f} points, {num_gains} of {len(order)} clients gain")
    figure.legend(loc="outside upper center", ncols=3, columnspacing=1.2, handletextpad=0.2)
    return figure


@paper_style
def label_distribution(
    clients: Sequence[Mapping[str, Any]], class_names: Sequence[str], counted: str = "training examples"
) -> "Figure":
    """Draw how many training examples, or other things, of each class each client has.

    Up to 20 clients as bubbles, whose areas are the counts; more, for which bubbles are too small, as a heat
    map.

    Parameters
    ----------
    clients : sequence of mapping
        Clients of the summary of which the label counts are known.
    class_names : sequence of str
        May be empty: classes are then numbered.
    counted : str
        What the counts are of.
    """
    counts = np.array([client["label_counts"] for client in clients]).T  # [classes, clients]
    num_classes, num_clients = counts.shape
    largest = max(1, int(counts.max()))
    names = list(class_names) or [str(label) for label in range(num_classes)]
    width = TWO_COLUMNS if num_clients > MOST_NAMED_CLIENTS else ONE_COLUMN
    height = min(1.0 + 0.18 * num_classes, TWO_COLUMNS)
    figure, axes = _figure(width, height)

    if num_clients > MOST_NAMED_CLIENTS:
        _heat_map(figure, axes, counts, counted, 0.5, aspect="auto", origin="lower")
    else:
        room = width - 0.5 - 0.06 * max(len(name) for name in names)
        cell = min(room / num_clients, (height - 1.0) / num_classes)  # inches
        area = (72 * cell) ** 2 / largest  # square points an example: the largest bubble fills its cell
        draw_bubbles(axes, counts, area)
        for size in legend_sizes(largest):
            axes.scatter([], [], area * size, BLUE, linewidth=0, label=str(size))
        figure.legend(loc="outside upper center", ncols=3, handletextpad=0.3, title=counted)
    _name_clients(axes, width, range(num_clients), [client["client_id"] for client in clients])
    step = -(-num_classes // MOST_NAMED_CLASSES)
    axes.set_yticks(range(0, num_classes, step), names[::step])
    axes.set_xlabel("client")
    axes.set_ylabel("class")
    return figure


@paper_style
def relevance_map(round: int, relevance: NDArray[Any], client_ids: Sequence[int]) -> "Figure":
    """Draw how much each client (row) listened to each client (column) in one round.

    Parameters
    ----------
    round : int
        Which round, for the title.
    relevance : ndarray
        ``[n, n]``, rows sum to one.
    client_ids : sequence of int
        The ``n`` clients of the rows and columns.
    """
    num_clients = len(client_ids)
    figure, axes = _figure(ONE_COLUMN, 3.0)
    _heat_map(figure, axes, relevance, "relevance", 1.0, aspect="equal", origin="upper")
    if num_clients <= MOST_NUMBERED_CELLS:
        for row, column in np.ndindex(relevance.shape):
            value = relevance[row, column]
            colour = "white" if value > 0.6 * relevance.max() else "black"
            shown = f"{value:.2f}".removeprefix("0")
            axes.text(column, row, shown, ha="center", va="center", color=colour, fontsize=5.5)
    _name_clients(axes, ONE_COLUMN, range(num_clients), client_ids)
    axes.set_yticks(axes.get_xticks(), [label.get_text() for label in axes.get_xticklabels()])
    axes.set_xlabel("source client")
    axes.set_ylabel("listening client")
    axes.set_title(f"relevance in round {round}\n(each row sums to 1)")
    return figure


def draw_bubbles(axes: "Axes", counts: NDArray[Any], area: float) -> None:
    """Draw a bubble for each client (x axis) and class (y axis) that go together.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    counts : ndarray
        ``[classes, clients]``.
    area : float
        The area of a bubble of count 1, in square points.
    """
    num_classes, num_clients = counts.shape
    label, client = np.nonzero(counts)
    axes.scatter(client, label, area * counts[label, client], BLUE, linewidth=0)
    axes.set_xlim(-0.6, num_clients - 0.4)
    axes.set_ylim(-0.6, num_classes - 0.4)


def legend_sizes(largest: int) -> list[int]:
    """Choose up to three round numbers for the legend of bubbles: 734 gives 20, 100 and 500."""
    power = 10 ** (len(str(largest)) - 1)
    top = max(factor * power for factor in (1, 2, 5) if factor * power <= largest)
    return sorted({max(1, top // 25), max(1, top // 5), top})


def _figure(width: float, height: float) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def _heat_map(
    figure: "Figure",
    axes: "Axes",
    values: NDArray[Any],
    label: str,
    gamma: float,
    aspect: Literal["equal", "auto"],
    origin: Literal["upper", "lower"],
) -> None:
    """Draw values from 0 up; a gamma below 1 spreads the small ones over more of the colours."""
    from matplotlib.colors import PowerNorm

    norm = PowerNorm(gamma, vmin=0, vmax=values.max())
    # By itself, matplotlib smooths cells that are narrower than three dots, also across rows.
    room = HEAT_MAP_WIDTH * figure.get_figwidth() * DOTS_PER_INCH
    interpolation = "nearest" if values.shape[1] <= room else "auto"
    image = axes.imshow(values, cmap=COLOUR_MAP, norm=norm, aspect=aspect, origin=origin, interpolation=interpolation)
    bar = figure.colorbar(image, ax=axes, label=label, shrink=0.8, aspect=25, pad=0.02)
    bar.outline.set_visible(False)
    axes.spines[:].set_visible(False)


def _name_clients(
    axes: "Axes", width: float, positions: Sequence[int] | NDArray[Any], client_ids: Sequence[int]
) -> None:
    """Name the clients on the x axis: all, or every k-th of many, upright where they would touch."""
    step = 1 if len(client_ids) <= MOST_NAMED_CLIENTS else -(-len(client_ids) // 10)
    names = [str(client_id) for client_id in client_ids[::step]]
    axes.set_xticks(positions[::step], names)
    if sum(len(name) + 1 for name in names) > CHARACTERS_AN_INCH * width:
        axes.tick_params(axis="x", labelrotation=90)
