import json

import pytest

from fedfuse.compare.outcome import Measures, log_path, read_measures, rounds_done, run_directory
from fedfuse.summary import SUMMARY_FILE


def test_measures_are_the_mean_of_the_last_five_rounds_and_totals(make_run, write_rounds, tmp_path):
    run = make_run("knfu", num_rounds=6)
    write_rounds(tmp_path, run, numbers=range(1, 7), accuracy=0.5)
    # Rounds 2 to 6: 4 hundredths on average; two clients, whose worst tenth is one of them; a round takes a second.
    assert read_measures(tmp_path, run) == Measures(
        own_test=pytest.approx(0.54),
        global_test=pytest.approx(0.29),
        worst_10_percent=pytest.approx(0.54),
        sent_bytes=6 * 400,
        seconds=pytest.approx(6.0),
    )


def test_a_run_counts_with_all_its_rounds_and_no_more(make_run, write_rounds, tmp_path):
    run = make_run("knfu", num_rounds=2)
    assert read_measures(tmp_path, run) is None
    write_rounds(tmp_path, run, numbers=(1,))
    assert read_measures(tmp_path, run) is None
    write_rounds(tmp_path, run, numbers=(2,))
    assert read_measures(tmp_path, run) is not None
    write_rounds(tmp_path, run, numbers=(3,))
    assert read_measures(tmp_path, run) is None


def test_a_run_without_its_summary_has_not_finished(make_run, write_rounds, tmp_path):
    run = make_run("knfu")
    path = write_rounds(tmp_path, run, finished=False)
    assert read_measures(tmp_path, run) is None
    (path / SUMMARY_FILE).write_text("{")
    assert read_measures(tmp_path, run) is None


def test_unknown_accuracies_stay_unknown(make_run, write_rounds, tmp_path, read_json):
    run = make_run("knfu")
    path = write_rounds(tmp_path, run)
    summary = read_json(path / SUMMARY_FILE)
    summary["metrics"]["general_mean"]["mean_of_last_five"] = None
    (path / SUMMARY_FILE).write_text(json.dumps(summary))
    assert read_measures(tmp_path, run).global_test is None


def test_rounds_are_counted_when_they_are_recorded_whole(make_run, write_rounds, tmp_path):
    run = make_run("knfu")
    assert rounds_done(tmp_path, run) == 0
    path = write_rounds(tmp_path, run, numbers=(1, 2), finished=False)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 3')
    assert rounds_done(tmp_path, run) == 2


def test_runs_and_their_logs_are_kept_apart(make_run, tmp_path):
    run = make_run("knfu")
    assert run_directory(tmp_path, run) == tmp_path / "runs" / "knfu-seed=0"
    assert log_path(tmp_path, run) == tmp_path / "logs" / "knfu-seed=0.log"
