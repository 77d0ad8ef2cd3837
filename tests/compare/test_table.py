import csv
import io

import pytest
from rich.console import Console

from fedfuse.compare.comparison import make_comparison
from fedfuse.compare.outcome import Outcome
from fedfuse.compare.statistics import Difference, Estimate
from fedfuse.compare.table import (
    difference_table,
    error_lines,
    format_estimate,
    format_interval,
    format_p,
    measure_table,
    to_csv,
    to_markdown,
)

LOW, HIGH = ("partition.alpha=0.1",), ("partition.alpha=1",)
OWN = {"local": (0.50, 0.50), "knfu": (0.51, 0.53)}  # t = 2: p = 0.295, and an interval of 12.7 points to each side


@pytest.fixture
def comparison(make_plan, measured):
    """Two settings; in the second one knfu has failed with one seed."""
    plan = make_plan(settings=(LOW, HIGH), notes=("Beware.",))
    outcomes = {run.folder: measured(OWN[run.method][run.seed]) for run in plan.runs}
    outcomes["knfu-1-seed=1"] = Outcome(error="No | data.")
    return make_comparison(plan, outcomes)


def printed(table, width=100):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def lines(text):
    return [line.split() for line in text.splitlines()]


@pytest.mark.parametrize(
    ("name", "estimate", "shown"),
    [
        ("own_test", Estimate(0.9351, 0.0214, 3), "93.5 ± 2.1"),
        ("own_test", Estimate(0.9351, None, 1), "93.5"),
        ("own_test", None, "-"),
        ("sent_bytes", Estimate(12_345, 0.0, 3), "12.3 kB"),
        ("sent_bytes", Estimate(12_345, 200.0, 3), "12.3 kB ± 200 B"),
        ("seconds", Estimate(12.34, 0.06, 3), "12.3 ± 0.1"),
    ],
)
def test_measures_are_shown_with_their_spread(name, estimate, shown):
    assert format_estimate(name, estimate) == shown


def test_intervals_and_chances():
    assert format_interval(Difference(0.0, -0.0123, 0.2, 0.5, None, 3, None)) == "[-1.2, +20.0]"
    assert format_interval(Difference(0.0, None, None, None, None, 1, "one seed")) == "-"
    assert [format_p(p) for p in (0.0123, 0.0004, 1.0, None)] == ["0.012", "< 0.001", "1.000", "-"]
    assert format_p(None, "one seed") == "- (one seed)"


def test_every_setting_has_its_methods_below_it(comparison):
    rows = lines(printed(measure_table(comparison)))
    assert rows[0] == ["method", "runs", "own", "test", "global", "test", "worst", "10", "%", "sent", "seconds"]
    assert rows[2:5] == [
        ["partition.alpha=0.1"],
        ["local", "2/2", "50.0", "±", "0.0", "50.0", "±", "0.0", "25.0", "±", "0.0", "1.0", "kB", "2.0", "±", "0.0"],
        ["knfu", "2/2", "52.0", "±", "1.4", "50.0", "±", "0.0", "25.0", "±", "0.0", "1.0", "kB", "2.0", "±", "0.0"],
    ]
    assert rows[-1] == ["knfu", "1/2", "51.0", "50.0", "25.0", "1.0", "kB", "2.0"]


def test_runs_under_way_and_failed_ones_are_named(comparison):
    run = comparison.blocks[0].rows[0].runs[1]
    text = printed(measure_table(comparison, {run: 1}))
    assert text.splitlines()[3].endswith("seed 1: 1/2")
    assert text.splitlines()[-1].endswith("failed")


def test_differences_to_local_only(comparison):
    rows = lines(printed(difference_table(comparison)))
    assert rows[3] == ["own", "test", "knfu", "+2.0", "[-10.7,", "+14.7]", "0.295", "0.295"]
    same = ["-", "(no", "variance)", "-"]
    assert rows[4] == ["global", "test", "knfu", "+0.0", "-", *same]
    assert rows[8] == ["own", "test", "knfu", "+1.0", "-", "-", "(one", "seed)", "-"]


def test_tables_fit_into_a_terminal(comparison):
    assert max(map(len, printed(measure_table(comparison), 80).splitlines())) <= 80
    assert max(map(len, printed(difference_table(comparison), 80).splitlines())) <= 80


def test_failures_are_listed_once_for_each_reason(make_plan, comparison):
    assert error_lines(comparison) == ["knfu failed (partition.alpha=1): No | data."]
    plan = make_plan(settings=(LOW, HIGH))
    everywhere = make_comparison(plan, {run.folder: Outcome(error="why") for run in plan.runs})
    assert error_lines(everywhere)[1] == "knfu failed (partition.alpha=0.1; partition.alpha=1): why"
    plan = make_plan()
    alone = make_comparison(plan, {run.folder: Outcome(error="why") for run in plan.runs})
    assert error_lines(alone) == ["local failed: why", "knfu failed: why"]


def test_markdown_holds_tables_notes_and_command(comparison):
    text = to_markdown(comparison, "fedfuse compare seed=0,1")
    assert "`fedfuse compare seed=0,1`" in text
    assert "## partition.alpha=0.1\n" in text
    assert "| knfu | 2/2 | 52.0 ± 1.4 | 50.0 ± 0.0 | 25.0 ± 0.0 | 1.0 kB | 2.0 ± 0.0 |" in text
    assert "| own test | knfu | +2.0 | [-10.7, +14.7] | 0.295 | 0.295 |" in text
    assert "- knfu failed (partition.alpha=1): No \\| data.\n- Beware.\n" in text
    assert "never the best round" in text


def test_csv_holds_exact_numbers(comparison):
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    assert [(row["partition.alpha"], row["method"], row["finished"]) for row in rows] == [
        ("0.1", "local", "2"),
        ("0.1", "knfu", "2"),
        ("1", "local", "2"),
        ("1", "knfu", "1"),
    ]
    estimate = comparison.blocks[0].rows[1].estimates["own_test"]
    assert (float(rows[1]["own_test_mean"]), float(rows[1]["own_test_std"])) == (estimate.mean, estimate.std)
    difference = comparison.blocks[0].rows[1].differences["own_test"]
    names = ("difference", "low", "high", "p", "p_holm")
    assert [float(rows[1][f"own_test_{name}"]) for name in names] == [
        difference.mean,
        difference.low,
        difference.high,
        difference.p,
        difference.adjusted_p,
    ]
    assert rows[0]["own_test_difference"] == rows[3]["own_test_std"] == rows[3]["own_test_p"] == ""
    assert rows[3]["sent_bytes_mean"] == "1000.0"
