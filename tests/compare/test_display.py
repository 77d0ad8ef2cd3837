import io
from pathlib import Path

import pytest
from rich.console import Console

from fedfuse.compare.comparison import make_comparison
from fedfuse.compare.display import LiveDisplay, PlainDisplay, make_display, print_comparison, run_line
from fedfuse.compare.outcome import Outcome


@pytest.fixture
def comparison(make_plan, measured):
    plan = make_plan()
    return make_comparison(plan, {run.folder: measured(0.5) for run in plan.runs})


def console_of(**terminal):
    return Console(file=io.StringIO(), width=120, **terminal)


def test_a_terminal_gets_the_table_and_a_pipe_lines():
    assert isinstance(make_display(console_of(force_terminal=True, force_interactive=True)), LiveDisplay)
    assert isinstance(make_display(console_of()), PlainDisplay)


def test_line_of_a_run(make_run, measured):
    line = run_line(3, 18, make_run("knfu"), measured(0.935, global_test=None, seconds=12.34))
    assert line == "[ 3/18] knfu-seed=0  own test 93.5 %  global test - %  12.3 s"
    assert run_line(18, 18, make_run("knfu"), Outcome(error="No.")) == "[18/18] knfu-seed=0  failed: No."


def test_a_pipe_has_one_line_a_run(make_run, measured, comparison):
    console = console_of()
    with PlainDisplay(console) as display:
        display.compared(comparison)
        display.under_way({make_run("knfu"): 1})
        display.run_ended(1, 2, make_run("knfu"), measured(0.5))
        display.run_ended(2, 2, make_run("knfu", 1), Outcome(error="[red]" + "x" * 200))
    lines = console.file.getvalue().splitlines()
    assert lines == [
        "[1/2] knfu-seed=0  own test 50.0 %  global test 50.0 %  2.0 s",
        "[2/2] knfu-seed=1  failed: [red]" + "x" * 200,
    ]


def test_the_table_fills_and_failures_stay_above_it(comparison, make_run, measured):
    console = console_of(force_terminal=True, force_interactive=True, color_system=None)
    with LiveDisplay(console) as display:
        display.run_ended(1, 4, make_run("knfu", 7), measured(0.5))
        display.run_ended(2, 4, make_run("knfu", 8), Outcome(error="No."))
        display.compared(comparison)
        display.under_way({comparison.blocks[0].rows[1].runs[1]: 1})
        display._live.refresh()
    text = console.file.getvalue()
    assert "[2/4] knfu-seed=8  failed: No." in text
    assert "seed=7" not in text
    assert "seed 1: 1/2" in text
    assert text.count("50.0 ± 0.0") >= 2


def test_the_end_shows_both_tables_and_where_the_files_are(comparison):
    console = console_of()
    print_comparison(console, comparison, Path("mine"))
    text = console.file.getvalue()
    assert text.index("50.0 ± 0.0") < text.index("Difference to local only") < text.index("paired t-test")
    assert text.endswith("Files: mine\n")


def test_without_any_difference_there_is_no_second_table(make_plan):
    console = console_of()
    plan = make_plan()
    print_comparison(console, make_comparison(plan, {run.folder: Outcome() for run in plan.runs}), Path("mine"))
    assert "p (Holm)\n" not in console.file.getvalue()
