import re

from fedfuse.report.accuracy import accuracy_by_round
from fedfuse.report.recorded_run import read_run


def section(directory):
    return accuracy_by_round(read_run(directory))


def test_every_kind_of_test_data_has_a_chart_with_its_baseline(make_run):
    text = section(make_run(num_clients=3, num_rounds=2))
    assert re.findall(r"<h3>([^<]*)</h3>", text) == ["Own test data", "Global test data"]
    notes = re.findall(r'<g data-note="([^"]*)"', text)
    assert notes == [
        "round 1, own test data\nmean: 20.0 %\nmean of the worst 10 % of clients: 10.0 %\nlocal only, mean: 10.0 %",
        "round 2, own test data\nmean: 30.0 %\nmean of the worst 10 % of clients: 20.0 %\nlocal only, mean: 10.0 %",
        "round 1, global test data\nmean: 10.0 %\nmean of the worst 10 % of clients: 0.0 %\nlocal only, mean: 25.0 %",
        "round 2, global test data\nmean: 10.0 %\nmean of the worst 10 % of clients: 0.0 %\nlocal only, mean: 25.0 %",
    ]
    assert "In round 2 the mean over clients is 30.0 per cent" in text


def test_all_numbers_are_in_a_table(make_run):
    text = section(make_run(num_rounds=2, baseline_rounds=1))
    rows = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in text.split("<tr>")[2:]]
    assert rows == [["1", "3", "20.0", "10.0", "10.0", "10.0", "25.0"], ["2", "3", "30.0", "20.0", "-", "10.0", "-"]]


def test_without_a_baseline_there_is_no_line_of_it(make_run):
    text = section(make_run(baseline_rounds=0))
    assert "local only, mean" not in text
    assert text.count("<polyline") == 4


def test_it_says_that_no_client_told_its_accuracy(make_run):
    assert section(make_run(known=False)) == "<p>No client told its accuracy.</p>"


def test_where_only_means_are_recorded_nothing_is_said_of_the_worst_clients(make_run):
    text = section(make_run(num_rounds=2, only_means=True, baseline_rounds=0))
    assert "In round 2 the mean over clients is 30.0 per cent." in text
    assert "of the worst 10 per cent of clients" not in text
    assert text.count("<polyline") == 2


def test_there_is_nothing_before_the_first_round(make_run):
    directory = make_run(num_rounds=1, finished=False)
    (directory / "metrics.jsonl").unlink()
    assert section(directory) == ""


def test_of_a_long_run_evenly_spaced_rounds_are_drawn(make_run):
    text = section(make_run(num_clients=1, num_rounds=201, baseline_rounds=0, relevance=False))
    assert "Of 201 rounds, 101 evenly spaced ones are shown" in text
    assert text.count("<g data-note") == 2 * 101
