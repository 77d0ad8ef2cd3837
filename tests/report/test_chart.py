import re

import numpy as np
import pytest

from fedfuse.report.chart import Line, bubble_chart, heat_map, line_chart, ticks

NASTY = '<script>"'


def draw(*lines, notes=None, **options):
    return line_chart("what there is", lines, notes or {}, "accuracy (%)", lambda value: f"{value:g}", **options)


def points_of(chart):
    return [
        [tuple(map(float, point.split(","))) for point in path.split()]
        for path in re.findall(r'points="([^"]*)"', chart)
    ]


def test_a_line_goes_up_where_values_do_and_the_first_is_drawn_last():
    chart = draw(Line("mean", {1: 0.0, 2: 50.0, 4: 100.0}, "accent"), Line("alone", {1: 100.0, 4: 0.0}, "grey", "6 4"))
    alone, mean = points_of(chart)
    assert mean == [(68.0, 218.0), (188.0, 114.0), (428.0, 10.0)]
    assert alone == [(68.0, 10.0), (428.0, 218.0)]
    assert re.findall(r'polyline class="line (\w+)" stroke-dasharray="([^"]*)"', chart) == [
        ("grey", "6 4"),
        ("accent", ""),
    ]
    assert re.findall(r"</svg>([^<]+)</li>", chart) == ["mean", "alone"]


def test_the_only_round_is_a_dot_in_the_middle():
    chart = draw(Line("mean", {3: 0.5}, "accent"), notes={3: "round 3"})
    assert points_of(chart) == [[(248.0, 218.0)]]
    assert '<g data-note="round 3" class="only">' in chart
    assert '<circle class="accent" cx="248.0" cy="218.0"' in chart


def test_every_round_with_a_note_can_be_pointed_at_and_no_gap_is_between_them():
    chart = draw(
        Line("mean", {1: 1.0, 2: 2.0, 3: 3.0}, "accent"),
        Line("alone", {2: 1.0}, "grey"),
        notes={1: "a", 2: "b", 3: "c"},
    )
    assert re.findall(r'data-note="(\w)"', chart) == ["a", "b", "c"]
    strips = [tuple(map(float, strip)) for strip in re.findall(r'<rect x="([\d.]+)" y="10" width="([\d.]+)"', chart)]
    assert strips == [(68.0, 90.0), (158.0, 180.0), (338.0, 90.0)]
    assert [strip.count("<circle") for strip in chart.split("<g data-note")[1:]] == [1, 2, 1]


def test_an_axis_can_start_at_zero():
    assert ">0</text>" not in draw(Line("bytes", {1: 90.0, 2: 100.0}, "accent"))
    assert ">0</text>" in draw(Line("bytes", {1: 90.0, 2: 100.0}, "accent"), from_zero=True)


def test_names_and_notes_of_a_line_chart_are_escaped():
    chart = line_chart(NASTY, [Line(NASTY, {1: 1.0}, "accent")], {1: NASTY}, NASTY, lambda _: NASTY)
    assert "<script" not in chart
    assert 'aria-label="&lt;script&gt;&quot;"' in chart
    assert 'data-note="&lt;script&gt;&quot;"' in chart


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.5486, 0.95, [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        (0, 124_680, [0, 50_000, 100_000, 150_000]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 0, [0, 0.1]),
        (0.9, 0.9, [0.9, 1.0]),
        (-3, 4, [-4, -2, 0, 2, 4]),
    ],
)
def test_ticks_are_round_numbers_around_the_range(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(("low", "high", "expected"), [(1, 3, [1, 2, 3]), (1, 1, [1, 2]), (1, 20, [0, 5, 10, 15, 20])])
def test_ticks_can_be_whole_numbers(low, high, expected):
    assert ticks(low, high, whole=True) == expected


def cells_of(matrix):
    return re.findall(r"<td class=s(\d+)>([^<\n]*)", matrix)


def test_a_heat_map_goes_from_zero_to_its_largest_value():
    values = np.array([[0.0, 0.4], [0.2, 0.21]])
    matrix = heat_map("caption", ["7", "9"], values, "listener", "{row} to {column}: {value}")
    assert cells_of(matrix) == [("0", "0.000"), ("10", "0.400"), ("5", "0.200"), ("5", "0.210")]
    assert re.findall(r'scope="(\w+)">(\d)', matrix) == [("col", "7"), ("col", "9"), ("row", "7"), ("row", "9")]
    assert 'data-reading="{row} to {column}: {value}"' in matrix
    assert matrix.endswith("</span> 0.400</p>")
    assert 'class="matrix"' in matrix


def test_a_heat_map_of_many_has_small_cells_and_tells_more_digits():
    names = [str(number) for number in range(21)]
    numbered = heat_map("caption", names[:20], np.eye(20), "listener", "")
    small = heat_map("caption", names, np.eye(21), "listener", "")
    assert 'class="matrix"' in numbered
    assert cells_of(numbered)[0] == ("10", "1.000")
    assert 'class="matrix small"' in small
    assert cells_of(small)[0] == ("10", "1.0000")


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_a_heat_map_of_nothing_is_light(value):
    assert [shade for shade, _ in cells_of(heat_map("caption", ["7"], np.array([[value]]), "listener", ""))] == ["0"]


def test_names_of_a_heat_map_are_escaped():
    assert "<script" not in heat_map(NASTY, [NASTY], np.ones((1, 1)), NASTY, NASTY)


def bubbles_of(chart):
    pattern = r'<circle class="bubble" cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)" data-note="([^"]*)"'
    return {note: (float(x), float(y), float(r)) for x, y, r, note in re.findall(pattern, chart)}


def test_the_areas_of_bubbles_are_the_counts_and_nothing_has_none():
    counts = np.array([[0, 4], [16, 1]])
    bubbles = bubbles_of(bubble_chart("how", "what", ["7", "9"], ["cat", "dog"], counts, "client"))
    assert bubbles.keys() == {"client 9, cat: 4", "client 7, dog: 16", "client 9, dog: 1"}
    radii = {note: radius for note, (_, _, radius) in bubbles.items()}
    assert radii == {"client 7, dog: 16": 12.0, "client 9, cat: 4": 6.0, "client 9, dog: 1": 3.0}
    assert bubbles["client 9, dog: 1"][0] - bubbles["client 7, dog: 16"][0] == pytest.approx(26, abs=0.11)
    assert bubbles["client 9, cat: 4"][1] - bubbles["client 9, dog: 1"][1] == 26  # the first class is at the bottom


def test_of_many_columns_only_so_many_are_named_that_names_do_not_touch():
    names = [str(number) for number in range(100, 130)]
    chart = bubble_chart("how", "what", names, ["cat"], np.ones((1, 30), int), "client")
    assert re.findall(r'text-anchor="middle">(\d+)</text>', chart) == names[::2]
    assert len(bubbles_of(chart)) == 30


def test_names_of_a_bubble_chart_are_escaped_and_cut():
    chart = bubble_chart(NASTY, NASTY, [NASTY], [f"{NASTY}{'x' * 20}"], np.ones((1, 1), int), NASTY)
    assert "<script" not in chart
    assert ">&lt;script&gt;&quot;xxxxxx\N{HORIZONTAL ELLIPSIS}</text>" in chart


def test_a_bubble_chart_of_no_examples_is_empty():
    assert not bubbles_of(bubble_chart("how", "what", ["7"], ["cat"], np.zeros((1, 1), int), "client"))
