import sys
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb, to_rgba

from fedfuse import results
from fedfuse.metrics import ClientMetrics, RoundRecord
from fedfuse.report import figures
from fedfuse.summary import ClientFacts, write_summary


def line(number, personal=0.5, general=0.25, std=0.125):
    return {
        "round": number,
        "personal_mean": personal,
        "personal_std": std,
        "general_mean": general,
        "general_std": std,
    }


NO_BASELINE = {"personal": None, "general": None}


def compared(client_id, before, after):
    return {"client_id": client_id, "local_only_accuracy": before, "personal_accuracy": after}


def counted(client_id, label_counts):
    return {"client_id": client_id, "label_counts": label_counts}


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def tick_names(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def text_boxes(figure, texts):
    figure.draw_without_rendering()
    return [text.get_window_extent() for text in texts if text.get_text()]


def assert_apart(boxes):
    for one, other in pairwise(boxes):
        assert not one.overlaps(other)


# accuracy by round


def test_accuracy_by_round_draws_means_bands_and_dashed_references():
    baseline = {"personal": {"mean": 0.375}, "general": {"mean": 0.125}}
    metrics = [line(1, 0.25, None, 0.5), line(2, 0.5, 0.75), line(3, 0.625, 1.0)]
    figure = figures.accuracy_by_round(metrics, baseline)
    (axes,) = figure.axes
    curves = {curve.get_label(): curve for curve in axes.lines}
    np.testing.assert_array_equal(curves["federated, own test data"].get_xydata(), [[1, 25], [2, 50], [3, 62.5]])
    np.testing.assert_array_equal(curves["federated, global test data"].get_xydata(), [[2, 75], [3, 100]])
    for name, height in (("own", 37.5), ("global", 12.5)):
        reference = curves[f"local only, {name} test data"]
        assert list(reference.get_ydata()) == [height, height]
        assert reference.is_dashed()
        assert not curves[f"federated, {name} test data"].is_dashed()
    personal, general = (band.get_paths()[0].get_extents() for band in axes.collections)
    assert (personal.ymin, personal.ymax) == (0, 75)  # an accuracy lies between 0 and 100 per cent
    assert (general.ymin, general.ymax) == (62.5, 100)
    assert legend(figure) == [
        "federated, own test data",
        "federated, global test data",
        "± std over clients",
        "local only, own test data",
        "local only, global test data",
    ]


def test_accuracy_by_round_without_a_baseline_or_general_accuracy():
    figure = figures.accuracy_by_round([line(1, general=None)], NO_BASELINE)
    assert legend(figure) == ["federated, own test data", "± std over clients"]
    figure.draw_without_rendering()
    assert "1" in tick_names(figure.axes[0].xaxis)
    assert all(tick == int(tick) for tick in figure.axes[0].get_xticks())


def test_accuracy_by_round_has_no_band_where_only_means_are_recorded():
    only_means = [line(number, 0.25) | {"personal_std": None, "general_std": None} for number in (1, 2)]
    figure = figures.accuracy_by_round(only_means, NO_BASELINE)
    assert not figure.axes[0].collections
    assert legend(figure) == ["federated, own test data", "federated, global test data"]


# accuracy by client


def test_accuracy_by_client_pairs_before_and_after_in_the_order_of_before():
    accuracies = [(0.75, 0.875), (0.5, 0.25), (0.25, 0.5), (0.5, 0.5)]
    figure = figures.accuracy_by_client([compared(i, *pair) for i, pair in enumerate(accuracies)])
    (axes,) = figure.axes
    pairs, before, better, worse = axes.collections
    np.testing.assert_array_equal(
        pairs.get_segments(),
        [[[1, 25], [1, 50]], [[2, 50], [2, 25]], [[3, 50], [3, 50]], [[4, 75], [4, 87.5]]],
    )
    np.testing.assert_array_equal(before.get_offsets(), [[1, 25], [2, 50], [3, 50], [4, 75]])
    np.testing.assert_array_equal(better.get_offsets(), [[1, 50], [3, 50], [4, 87.5]])
    np.testing.assert_array_equal(worse.get_offsets(), [[2, 25]])
    assert tick_names(axes.xaxis) == ["2", "1", "3", "0"]
    assert axes.get_title() == "mean gain +3.1 points, 2 of 4 clients gain"
    assert legend(figure) == ["local only", "federated", "federated, worse"]


def test_accuracy_by_client_names_ranks_where_there_are_many_clients():
    figure = figures.accuracy_by_client([compared(i + 500, i / 200, 0.6) for i in range(100)])
    (axes,) = figure.axes
    assert [tick for tick in axes.get_xticks() if tick <= axes.get_xlim()[1]] == [20, 40, 60, 80, 100]
    assert figure.get_figwidth() == 7.0
    assert legend(figure) == ["local only", "federated"]


# label distribution


def test_bubbles_have_the_area_of_their_counts():
    figure = figures.label_distribution([counted(0, [40, 0, 10]), counted(7, [0, 20, 0])], ["cat", "$a$", "_b"])
    (axes,) = figure.axes
    bubbles = axes.collections[0]
    np.testing.assert_array_equal(bubbles.get_offsets(), [[0, 0], [1, 1], [0, 2]])
    np.testing.assert_allclose(bubbles.get_sizes() / bubbles.get_sizes()[0], [1, 0.5, 0.25])
    assert legend(figure) == ["1", "4", "20"]
    np.testing.assert_allclose(axes.collections[3].get_sizes(), bubbles.get_sizes()[1])  # 20 examples
    assert tick_names(axes.yaxis) == ["cat", "$a$", "_b"]
    assert not any(label.get_parse_math() for label in axes.get_yticklabels())  # shown as it is written
    assert tick_names(axes.xaxis) == ["0", "7"]


@pytest.mark.parametrize(("num_clients", "num_classes"), [(1, 2), (10, 10), (20, 10), (12, 100)])
def test_bubbles_do_not_touch(num_clients, num_classes):
    names = [f"class_{label}" for label in range(num_classes)]
    figure = figures.label_distribution([counted(i, [9] * num_classes) for i in range(num_clients)], names)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    diameter = np.sqrt(axes.collections[0].get_sizes()[0]) / 72 * figure.dpi  # pixels
    (left, bottom), (right, top) = axes.transData.transform([[0, 0], [1, 1]])
    assert diameter <= right - left
    assert diameter <= top - bottom


def test_many_clients_are_a_heat_map_of_their_counts():
    counts = np.random.default_rng(0).integers(0, 50, (30, 4))
    figure = figures.label_distribution([counted(i, list(row)) for i, row in enumerate(counts)], [])
    axes, bar = figure.axes
    np.testing.assert_array_equal(axes.images[0].get_array(), counts.T)
    assert axes.images[0].norm(0) == 0
    assert axes.images[0].norm(counts.max() / 4) == 0.5  # the square root
    assert tick_names(axes.yaxis) == ["0", "1", "2", "3"]
    assert tick_names(axes.xaxis) == [str(i) for i in range(0, 30, 3)]
    assert bar.get_ylabel() == "training examples"


@pytest.mark.parametrize(
    ("largest", "sizes"), [(734, [20, 100, 500]), (1000, [40, 200, 1000]), (49, [1, 4, 20]), (1, [1])]
)
def test_the_legend_of_bubbles_has_round_numbers(largest, sizes):
    assert figures.legend_sizes(largest) == sizes


# relevance


def test_relevance_map_shows_the_matrix_and_its_numbers():
    relevance = np.array([[0.75, 0.25], [0.0, 1.0]])
    figure = figures.relevance_map(20, relevance, [3, 8])
    axes, bar = figure.axes
    np.testing.assert_array_equal(axes.images[0].get_array(), relevance)
    assert axes.images[0].norm(0.25) == 0.25
    cells = {text.get_position(): (text.get_text(), text.get_color()) for text in axes.texts}
    assert cells == {  # by (column, row)
        (0, 0): (".75", "white"),
        (1, 0): (".25", "black"),
        (0, 1): (".00", "black"),
        (1, 1): ("1.00", "white"),
    }
    assert tick_names(axes.xaxis) == tick_names(axes.yaxis) == ["3", "8"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("source client", "listening client")
    assert axes.yaxis.get_inverted()  # the first row is on top
    assert axes.get_title() == "relevance in round 20\n(each row sums to 1)"
    assert bar.get_ylabel() == "relevance"


@pytest.mark.parametrize(("num_clients", "num_numbers"), [(12, 144), (13, 0)])
def test_only_a_small_relevance_map_has_numbers(num_clients, num_numbers):
    relevance = np.full((num_clients, num_clients), 1 / num_clients)
    figure = figures.relevance_map(1, relevance, list(range(num_clients)))
    assert len(figure.axes[0].texts) == num_numbers


# what holds for all


@pytest.mark.parametrize("num_clients", [1, 12, 20, 100])
@pytest.mark.parametrize("first_id", [0, 12_345])
def test_names_of_clients_do_not_overlap(num_clients, first_id):
    ids = list(range(first_id, first_id + num_clients))
    drawn = [
        figures.accuracy_by_client([compared(i, 0.5, 0.6) for i in ids]),
        figures.label_distribution([counted(i, [1, 2, 3]) for i in ids], []),
        figures.relevance_map(1, np.full((num_clients, num_clients), 1 / num_clients), ids),
    ]
    for figure in drawn:
        axes = figure.axes[0]
        assert_apart(text_boxes(figure, axes.get_xticklabels()))
        assert_apart(text_boxes(figure, axes.get_yticklabels()))


def test_colours_differ_in_grey():
    def grey(colour):
        return float(np.dot(to_rgb(colour), [0.299, 0.587, 0.114]))

    shades = sorted([grey(figures.BLUE), grey(figures.RED), 1.0])
    assert min(np.diff(shades)) > 0.2
    colours = mpl.colormaps[figures.COLOUR_MAP](np.linspace(0, 1, 64))
    assert (np.diff([grey(colour[:3]) for colour in colours]) < 0).all()


def test_the_users_own_style_is_neither_used_nor_changed():
    with mpl.rc_context({"axes.facecolor": "black", "font.size": 30}):
        figure = figures.accuracy_by_round([line(1), line(2)], NO_BASELINE)
        assert figure.axes[0].get_facecolor() == to_rgba("white")
        assert figure.axes[0].xaxis.label.get_size() == 8
        assert mpl.rcParams["font.size"] == 30


# draw_figures


def run_directory(directory, relevance=True, baseline=True, label_counts=(4, 2)):
    for number in (1, 2):
        clients = tuple(ClientMetrics(i, 0.5 + i / 8, 0.25, None, None) for i in range(3))
        listened = (np.full((3, 3), 1 / 3), (0, 1, 2)) if relevance else (None, ())
        record = RoundRecord(number, clients, (), 1, 1, {"round": 1.0}, *listened)
        results.append_round(directory, record)
        if baseline:
            results.append_round(directory / results.LOCAL_ONLY, record)
    return write_summary(directory, {}, [ClientFacts(i, "mlp", 6, label_counts) for i in range(3)])


ALL = ["accuracy_by_round", "accuracy_by_client", "label_distribution", "relevance"]


def test_draw_figures_writes_the_same_bytes_for_the_same_results(tmp_path):
    written = []
    for name in ("a", "b"):
        summary = run_directory(tmp_path / name)
        paths = figures.draw_figures(tmp_path / name, summary)
        assert paths == [tmp_path / name / "figures" / f"{figure}.png" for figure in ALL]
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]
    for content in written[0]:
        assert content.startswith(b"\x89PNG")
        assert b"Software" not in content
        assert b"tEXt" not in content
        pixels_a_metre = round(200 / 0.0254)
        assert b"pHYs" + pixels_a_metre.to_bytes(4, "big") * 2 in content


def test_draw_figures_does_not_need_pyplot(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # to import it is an error
    assert len(figures.draw_figures(tmp_path, run_directory(tmp_path))) == 4


@pytest.mark.parametrize(
    ("missing", "skipped"),
    [
        ({"relevance": False}, "relevance"),
        ({"baseline": False}, "accuracy_by_client"),
        ({"label_counts": None}, "label_distribution"),
    ],
)
def test_figures_without_data_are_skipped(tmp_path, missing, skipped):
    paths = figures.draw_figures(tmp_path, run_directory(tmp_path, **missing))
    assert [path.stem for path in paths] == [name for name in ALL if name != skipped]
    assert set((tmp_path / "figures").iterdir()) == set(paths)


def test_a_run_without_metrics_has_no_accuracy_figures(tmp_path):
    client = ClientMetrics(0, None, None, None, None)
    results.append_round(tmp_path, RoundRecord(1, (client,), (), 1, 1, {}, None, ()))
    summary = write_summary(tmp_path, {}, [ClientFacts(0, "mlp", None, None)])
    assert figures.draw_figures(tmp_path, summary) == []
