import signal

import pytest

from fedfuse.compare import processes
from fedfuse.compare.execution import carry_out
from fedfuse.compare.outcome import log_path
from fedfuse.compare.report import JSON_FILE


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Look at once, and draw no figure."""
    monkeypatch.setattr(processes, "SECONDS_BETWEEN_LOOKS", 0)
    figure = type("Figure", (), {"savefig": lambda self, file, **options: file.write(b"PNG")})
    monkeypatch.setattr("fedfuse.compare.report.draw_comparison", lambda comparison: figure())


@pytest.fixture
def runner(write_rounds, scripted_process, tmp_path):
    """Return a function that starts runs which are over at the first look, noting their folders."""

    def start(run):
        start.started.append(run.folder)
        if run.folder in start.codes:
            return scripted_process(looks=0, code=start.codes[run.folder])
        write_rounds(tmp_path, run, accuracy=0.5 + run.seed / 10)
        return scripted_process(looks=1)

    start.started, start.codes = [], {}
    return start


def test_all_runs_are_run_and_compared(make_plan, runner, display, tmp_path, read_json):
    comparison = carry_out(tmp_path, make_plan(), 1, runner, display)
    assert runner.started == ["local-seed=0", "knfu-seed=0", "local-seed=1", "knfu-seed=1"]
    assert [row.num_finished for row in comparison.blocks[0].rows] == [2, 2]
    assert [(number, total, folder) for number, total, folder, _ in display.ended][-1] == (4, 4, "knfu-seed=1")
    assert len(read_json(tmp_path / JSON_FILE)["runs"]) == 4


def test_files_are_there_from_the_start_and_after_every_run(make_plan, runner, display, tmp_path, read_json):
    seen = []

    def start(run):
        methods = read_json(tmp_path / JSON_FILE)["settings"][0]["methods"]
        seen.append([method["num_finished"] for method in methods])
        return runner(run)

    carry_out(tmp_path, make_plan(), 1, start, display)
    assert seen == [[0, 0], [1, 0], [1, 1], [2, 1]]
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert names == {"comparison.md", "comparison.csv", "comparison.json", "comparison.png", "report.html"}


def test_display_is_told_the_rounds_of_runs_under_way(make_plan, runner, display, tmp_path):
    plan = make_plan(methods=("local",), seeds=(0,))
    carry_out(tmp_path, plan, 1, runner, display)
    assert display.rounds == [{plan.runs[0]: 2}, {}]


def test_finished_runs_are_not_repeated(make_plan, runner, display, write_rounds, tmp_path):
    plan = make_plan()
    write_rounds(tmp_path, plan.runs[1])
    write_rounds(tmp_path, plan.runs[2], numbers=(1,), finished=False)
    write_rounds(tmp_path, plan.runs[3], numbers=(1,))  # it has a summary, but not of all rounds
    carry_out(tmp_path, plan, 1, runner, display)
    assert runner.started == ["local-seed=0", "local-seed=1", "knfu-seed=1"]
    assert [number for number, *_ in display.ended] == [2, 3, 4]


def test_a_failed_run_is_noted_while_others_go_on_and_is_tried_again(make_plan, runner, display, tmp_path, read_json):
    plan = make_plan()
    log_path(tmp_path, plan.runs[1]).parent.mkdir()
    log_path(tmp_path, plan.runs[1]).write_text("fedfuse: error: Not today.\n")
    runner.codes = {"knfu-seed=0": 2, "knfu-seed=1": -signal.SIGKILL}
    comparison = carry_out(tmp_path, plan, 2, runner, display)
    assert len(runner.started) == 4
    assert comparison.blocks[0].rows[1].errors == ("Not today.", "ended by SIGKILL")
    assert read_json(tmp_path / JSON_FILE)["runs"][1]["error"] == "Not today."

    runner.codes, runner.started, display.comparisons[:] = {}, [], []
    comparison = carry_out(tmp_path, plan, 1, runner, display)
    assert display.comparisons[0].blocks[0].rows[1].errors == ()  # what is tried again has not failed yet
    assert runner.started == ["knfu-seed=0", "knfu-seed=1"]
    assert comparison.blocks[0].rows[1].errors == ()
    assert read_json(tmp_path / JSON_FILE)["runs"][1]["error"] is None


def test_a_run_that_ends_with_other_rounds_than_planned_has_failed(
    make_plan, display, write_rounds, scripted_process, tmp_path
):
    plan = make_plan(methods=("local",), seeds=(0,))

    def start(run):
        write_rounds(tmp_path, run, numbers=(1, 2, 3))
        return scripted_process(looks=0)

    comparison = carry_out(tmp_path, plan, 1, start, display)
    assert comparison.blocks[0].rows[0].errors == ("ended after 3 rounds instead of 2",)


def test_after_an_interrupt_the_files_say_how_far_all_is(
    make_plan, runner, display, write_rounds, scripted_process, tmp_path, read_json
):
    plan = make_plan()

    class FinishesWhileItIsStopped(scripted_process):
        def wait(self, timeout=None):
            write_rounds(tmp_path, plan.runs[1])
            return 0

    def start(run):
        return FinishesWhileItIsStopped(looks=99) if run == plan.runs[1] else runner(run)

    def interrupt(rounds):
        if plan.runs[1] in rounds:
            raise KeyboardInterrupt

    display.under_way = interrupt
    with pytest.raises(KeyboardInterrupt):
        carry_out(tmp_path, plan, 1, start, display)
    runs = read_json(tmp_path / JSON_FILE)["runs"]
    assert [run["measures"] is not None for run in runs] == [True, True, False, False]
    assert [run["error"] for run in runs] == [None] * 4
