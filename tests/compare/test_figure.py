import matplotlib.colors
import pytest

from fedfuse.compare.comparison import make_comparison
from fedfuse.compare.figure import COLOURS, MARKERS, draw_comparison
from fedfuse.compare.outcome import Outcome

SETTINGS = tuple((f"partition.alpha={alpha}",) for alpha in (0.1, 1, 10, 100))


def compare(plan, outcome):
    return make_comparison(plan, {run.folder: outcome(run) for run in plan.runs})


def panels(figure):
    return [panel for panel in figure.axes if panel.get_visible()]


def test_a_point_is_the_mean_over_seeds_with_its_standard_deviation(make_plan, measured):
    values = {0: (0.5, 0.2), 1: (0.7, 0.4)}
    comparison = compare(make_plan(methods=("local",)), lambda run: measured(*values[run.seed]))
    (panel,) = panels(draw_comparison(comparison))
    ((point, _, bars),) = panel.containers
    assert point.get_xydata().tolist() == [pytest.approx([30, 60])]
    deviation = 100 * 0.2 / 2**0.5
    across, up = (bar.get_segments()[0] for bar in bars)
    assert across[:, 0] == pytest.approx([30 - deviation, 30 + deviation])
    assert up[:, 1] == pytest.approx([60 - deviation, 60 + deviation])


def test_one_seed_has_no_bars(make_plan, measured):
    comparison = compare(make_plan(methods=("local",), seeds=(0,)), lambda run: measured(0.5))
    ((*_, bars),) = panels(draw_comparison(comparison))[0].containers
    assert bars == ()


def test_every_setting_has_a_panel_and_every_method_one_look(make_plan, measured):
    plan = make_plan(("local", "a", "b"), settings=SETTINGS)
    comparison = compare(plan, lambda run: measured(0.5, global_test=SETTINGS.index(run.setting) / 10))
    figure = draw_comparison(comparison)
    assert [panel.get_title() for panel in panels(figure)] == [setting[0] for setting in SETTINGS]
    looks = {
        tuple((one.lines[0].get_marker(), one.lines[0].get_color()) for one in panel.containers)
        for panel in panels(figure)
    }
    assert looks == {tuple(zip(MARKERS, COLOURS, strict=False))[:3]}
    assert len({panel.get_xlim() + panel.get_ylim() for panel in panels(figure)}) == 1
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["local", "a", "b"]
    assert [line.get_marker() for line in legend.get_lines()] == list(MARKERS[:3])


def test_a_method_without_results_keeps_its_look_for_later(make_plan, measured):
    def outcome(run):
        if run.method == "a":
            return Outcome(error="why") if run.setting == SETTINGS[0] else measured(0.5, global_test=None)
        return measured(0.5)

    figure = draw_comparison(compare(make_plan(("local", "a", "b"), settings=SETTINGS[:2]), outcome))
    for panel in panels(figure):
        assert [one.get_label() for one in panel.containers] == ["local", "b"]
        assert panel.containers[1].lines[0].get_marker() == MARKERS[2]


def test_nothing_finished_is_an_empty_panel(make_plan):
    figure = draw_comparison(compare(make_plan(), lambda run: Outcome()))
    assert len(panels(figure)) == 1
    assert not figure.legends


def test_many_methods_look_different_and_colours_differ_in_grey():
    assert len({(MARKERS[i % len(MARKERS)], COLOURS[i % len(COLOURS)]) for i in range(44)}) == 44
    weights = (0.299, 0.587, 0.114)
    shades = sorted(sum(w * c for w, c in zip(weights, matplotlib.colors.to_rgb(one), strict=True)) for one in COLOURS)
    assert shades[-1] - shades[0] > 0.4
