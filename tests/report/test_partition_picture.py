import numpy as np
import pytest
from matplotlib.image import imread

from fedfuse.report import figures
from fedfuse.report.partition_picture import partition_panels, partition_picture, write_picture

COUNTS = np.array([[3, 0], [1, 2], [0, 5]])


def bubbles(axes):
    """Read the bubbles back: (client, class) to area."""
    points = {}
    for collection in axes.collections:
        for (x, y), area in zip(collection.get_offsets().tolist(), collection.get_sizes(), strict=False):
            points[int(x), int(y)] = float(area)
    return points


def test_a_bubble_shows_each_count_by_its_area():
    axes = partition_picture(COUNTS, ["cat", "dog"]).axes[0]
    points = bubbles(axes)
    assert set(points) == {(0, 0), (1, 0), (1, 1), (2, 1)}
    assert points[0, 0] / points[1, 0] == pytest.approx(3)
    assert points[2, 1] / points[1, 1] == pytest.approx(2.5)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]
    assert axes.figure.legends[0].get_title().get_text() == "samples"


def test_a_thousand_clients_are_a_heat_map_whose_rows_do_not_run_into_each_other():
    counts = np.random.default_rng(0).integers(0, 9, size=(1000, 4))
    axes = partition_picture(counts, list("abcd")).axes[0]
    (image,) = axes.images
    assert np.array_equal(image.get_array(), counts.T)
    assert image.get_interpolation() == "nearest"


def test_more_clients_than_dots_are_averaged():
    (image,) = partition_picture(np.ones((2000, 4)), list("abcd")).axes[0].images
    assert image.get_interpolation() == "auto"


def test_panels_have_one_scale_and_a_title_each():
    figure = partition_panels({"one": COUNTS, "two": 2 * COUNTS, "three": COUNTS}, ["cat", "dog"])
    axes = figure.axes
    assert [one.get_title() for one in axes[:3]] == ["one", "two", "three"]
    assert not axes[3].axison
    assert bubbles(axes[1])[0, 0] == pytest.approx(2 * bubbles(axes[0])[0, 0])
    assert bubbles(axes[2]) == bubbles(axes[0])
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [f"{size} samples" for size in figures.legend_sizes(10)]


def test_a_picture_is_written_whole_and_the_same_each_time(tmp_path):
    for name in ("one.png", "two"):
        write_picture(tmp_path / name, partition_picture(COUNTS, ["cat", "dog"]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "two"]
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two").read_bytes()
    width = imread(tmp_path / "one.png").shape[1]
    assert width == int(figures.ONE_COLUMN * figures.DOTS_PER_INCH)
