import re
from dataclasses import replace

import pytest

from fedfuse.report.clients import client_table, label_counts
from fedfuse.report.recorded_run import read_run


def rows_of(text):
    return [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in re.split(r"<tr>", text)[2:]]


def test_every_client_has_a_row_and_the_spread_follows(make_run):
    text = client_table(read_run(make_run(num_clients=2, num_rounds=2)))
    assert rows_of(text) == [
        ["0", "10", "mlp", "0.0", "20.0", "+20.0", "0.0"],
        ["1", "20", "mlp", "10.0", "30.0", "+20.0", "10.0"],
        ["mean", "", "", "5.0", "25.0", "+20.0", "5.0"],
        ["std dev", "", "", "5.0", "5.0", "-", "5.0"],
        ["worst", "", "", "0.0", "20.0", "+20.0", "0.0"],
        ["worst 10 %", "", "", "0.0", "20.0", "+20.0", "0.0"],
    ]
    assert text.count('aria-sort="none"') == 7
    assert "The last rows" not in text


def test_what_is_unknown_is_a_dash(make_run):
    text = client_table(read_run(make_run(num_clients=1, known=False, finished=False)))
    assert rows_of(text)[0] == ["0", "-", "-", "-", "-", "-", "-"]
    assert "None" not in text
    assert "The last rows are over the participants of the last round." in text


def test_it_says_over_which_clients_the_spread_is_if_not_over_all(make_run):
    run = read_run(make_run())
    first, *others = run.clients
    text = client_table(replace(run, clients=[first | {"gain": None}, *others]))
    assert "The last rows are over the 2 clients evaluated both with and without federation." in text


def test_the_name_of_a_model_is_shown_as_it_is(make_run):
    text = client_table(read_run(make_run(num_clients=1, model="<script>alert(1)</script>")))
    assert "<script" not in text
    assert rows_of(text)[0][2] == "&lt;script&gt;alert(1)&lt;/script&gt;"


def test_of_very_many_clients_the_worst_and_the_best_are_shown(make_run):
    run = read_run(make_run(num_clients=1))
    (one,) = run.clients
    clients = [one | {"client_id": i, "personal_accuracy": i / 1200} for i in range(1, 1202)]
    clients[99]["personal_accuracy"] = None  # neither worst nor best
    text = client_table(replace(run, clients=clients))
    ids = [int(row[0]) for row in rows_of(text)[:-4]]
    assert ids == [*range(1, 100), *range(101, 502), *range(702, 1202)]
    assert "These are the 500 worst and the 500 best of 1201 clients" in text


def test_the_examples_of_every_class_at_every_client_are_bubbles(make_run):
    text = label_counts(read_run(make_run(num_clients=2)))
    assert re.findall(r'data-note="([^"]*)"', text) == ["client 1, cat: 1", "client 0, dog: 10", "client 1, dog: 19"]
    assert "the largest is 19" in text


def test_classes_without_names_are_numbered(make_run):
    assert 'data-note="client 0, 1: 10"' in label_counts(read_run(make_run(num_clients=1, class_names=())))


@pytest.mark.parametrize("num_clients", [60, 61])
def test_more_than_60_clients_are_added_up(make_run, num_clients):
    run = read_run(make_run(num_clients=1))
    clients = [run.clients[0] | {"client_id": i, "label_counts": [0, i + 1]} for i in range(num_clients)]
    text = label_counts(replace(run, clients=clients))
    if num_clients == 60:
        assert text.count("<circle") == 60
    else:
        assert "61 clients and 2 classes are too many to draw" in text
        assert "A client has 1 to 61 training examples (median 31), of 1 to 1 classes (median 1)." in text
        assert rows_of(text) == [["cat", "0", "0", "0"], ["dog", "1891", "61", "61"]]


def test_more_than_30_classes_are_listed(make_run):
    run = read_run(make_run(num_clients=1))
    clients = [run.clients[0] | {"label_counts": [1] * 31}]
    text = label_counts(replace(run, clients=clients, class_names=[]))
    assert len(rows_of(text)) == 31


def test_without_clients_or_counts_there_is_nothing(make_run):
    run = read_run(make_run(num_clients=1, finished=False))
    assert label_counts(run) == ""
    assert client_table(replace(run, clients=[])) == ""
