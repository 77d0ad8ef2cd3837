import pytest

from fedfuse.benchmark.contestants import CONTESTANTS
from fedfuse.benchmark.figure import LOOKS, draw_outcomes


def marks(panel):
    return {one.get_label(): one for one in panel.containers}


def test_a_mark_is_the_median_ratio_with_the_smallest_and_the_largest(make_outcome):
    seconds = {"plain loop": [2.0, 6.0, 8.0], "fedfuse stacked": [1.0, 2.0, 1.0], "matrix product": [1.0] * 3}
    (panel,) = draw_outcomes([make_outcome(seconds)]).axes
    assert panel.get_yscale() == "log"
    assert list(marks(panel)) == ["fedfuse stacked"]
    point, _, (bar,) = marks(panel)["fedfuse stacked"]
    assert point.get_ydata().tolist() == [3.0]
    assert bar.get_segments()[0][:, 1].tolist() == [2.0, 8.0]


def test_every_model_and_work_has_a_panel_and_every_number_of_clients_a_place(make_outcome):
    seconds = {"plain loop": [2.0], "fedfuse sequential": [1.0], "fedfuse stacked": [1.0]}
    outcomes = [
        make_outcome(seconds, model, work, number)
        for model in ("mlp64", "lenet")
        for work in ("training", "distillation")
        for number in (10, 1000)
    ]
    figure = draw_outcomes(outcomes)
    titles = [f"{model}, {work}" for model in ("mlp64", "lenet") for work in ("local training", "distillation")]
    assert [panel.get_title() for panel in figure.axes] == titles
    for panel in figure.axes[-2:]:
        assert [text.get_text() for text in panel.get_xticklabels()] == ["10", "1,000"]
    for panel in figure.axes:
        places = [(one.get_label(), one[0].get_xdata()[0]) for one in panel.containers]
        assert [name for name, _ in places] == ["fedfuse sequential", "fedfuse stacked"] * 2
        assert [place for _, place in places] == pytest.approx([-0.15, 0.15, 0.85, 1.15])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["fedfuse sequential", "fedfuse stacked"]


@pytest.mark.parametrize(("scaled", "hollow"), [({}, False), ({"plain loop": 5}, True), ({"fedfuse stacked": 5}, True)])
def test_a_mark_with_a_scaled_time_is_hollow(make_outcome, scaled, hollow):
    outcome = make_outcome({"plain loop": [2.0], "fedfuse stacked": [1.0]}, measured=scaled)
    (panel,) = draw_outcomes([outcome]).axes
    assert (marks(panel)["fedfuse stacked"][0].get_markerfacecolor() == "white") is hollow


def test_without_the_plain_loop_there_is_nothing_to_draw(make_outcome):
    figure = draw_outcomes([make_outcome({"fedfuse stacked": [1.0]})])
    assert not figure.axes[0].containers
    assert not figure.legends


def test_every_contestant_looks_different():
    assert set(LOOKS) == set(CONTESTANTS) - {"plain loop", "matrix product"}
    assert len(set(LOOKS.values())) == len(LOOKS)
