import re
from dataclasses import replace

import numpy as np
import pytest

from fedfuse.metrics import LeftOut
from fedfuse.report.exchange import bytes_and_seconds, left_out, listening, seconds_by_verb
from fedfuse.report.recorded_run import read_run


def rows_of(text):
    return [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in re.split(r"<tr>", text)[2:]]


def test_up_to_60_clients_are_a_matrix_with_their_ids(make_run):
    text = listening(read_run(make_run(num_clients=2)))
    assert re.findall(r"<td class=s\d+>([\d.]+)", text) == ["0.333", "0.667", "0.429", "0.571"]
    assert 'data-reading="In round 2, client {row} listened to client {column} with weight {value}"' in text
    assert "Round 2: how much each client (row) listened to each client (column)" in text


@pytest.mark.parametrize("num_clients", [60, 61])
def test_of_more_clients_those_that_are_listened_to_most_are_listed(make_run, num_clients):
    run = read_run(make_run(num_clients=1))
    weights = np.full((num_clients, num_clients), 0.001)
    weights[:, 7] = 0.5
    weights[3, 4] = 0.75
    weights[9, 9] = 0.99  # listening to oneself does not count
    text = listening(replace(run, relevance=(5, weights, np.arange(num_clients) + 100)))
    if num_clients == 60:
        assert text.count("<td class=s") == 3600
        return
    assert "61 clients are too many for a matrix" in text
    sources, pairs = (rows_of(table) for table in text.split("<table")[1:])
    assert len(sources) == len(pairs) == 20
    assert sources[0] == ["107", "0.5000", "0.5000"]
    assert sources[1] == ["104", "0.0135", "0.0010"]
    assert pairs[:2] == [["103", "104", "0.7500"], ["100", "107", "0.5000"]]
    assert "109" not in [source for _, source, _ in pairs]


def test_without_relevance_there_is_nothing_to_show(make_run):
    assert listening(read_run(make_run(relevance=False))) == ""


def test_bytes_are_given_in_total_by_client_and_by_round(make_run):
    text = bytes_and_seconds(read_run(make_run(num_clients=4, num_rounds=2)))
    assert re.findall(r'<dd class="number">([^<]*)</dd><dd>([^<]*)</dd>', text) == [
        ("200 B", "50 B a client, 100 B a round"),
        ("600 B", "150 B a client, 300 B a round"),
    ]
    assert re.findall(r'data-note="([^"]*)"', text) == [f"round {n}\nup: 100 B\ndown: 300 B" for n in (1, 2)]


def test_seconds_are_added_up_by_verb_and_the_clock_is_apart(make_run):
    run = read_run(make_run(num_rounds=2))
    assert seconds_by_verb(run) == {"learn": 1.0, "round": 2.0}
    line = run.metrics[0] | {"seconds": {"sleep": 1.0, "absorb": 2.0, "learn": 5.0, "round": 4.0}}
    text = bytes_and_seconds(replace(run, metrics=[line]))
    assert rows_of(text) == [
        ["learn", "5.00", "62.5"],
        ["absorb", "2.00", "25.0"],
        ["sleep", "1.00", "12.5"],
        ["rounds, by the clock", "4.00", ""],
    ]


def test_seconds_that_are_unknown_are_no_error(make_run):
    run = read_run(make_run(num_rounds=1))
    lines = [run.metrics[0] | {"seconds": {}}, run.metrics[0] | {"seconds": {"fuse": 0.0}}]
    assert rows_of(bytes_and_seconds(replace(run, metrics=lines[:1]))) == []
    assert rows_of(bytes_and_seconds(replace(run, metrics=lines[1:]))) == [["fuse", "0.00", "-"]]


def test_there_is_nothing_before_the_first_round(make_run):
    run = replace(read_run(make_run(num_rounds=1)), metrics=[])
    assert bytes_and_seconds(run) == left_out(run) == ""


def test_clients_left_out_are_listed_by_round_phase_and_reason(make_run):
    reason = "</table><script>alert(1)</script>"
    gone = (LeftOut(2, "share", reason), LeftOut(0, "share", reason), LeftOut(1, "absorb", "no reply"))
    text = left_out(read_run(make_run(num_rounds=2, left_out=gone)))
    assert "<script" not in text
    shown = "&lt;/table&gt;&lt;script&gt;alert(1)&lt;/script&gt;"
    assert rows_of(text) == [
        ["1", "share", shown, "2", "2, 0"],
        ["1", "absorb", "no reply", "1", "1"],
        ["2", "share", shown, "2", "2, 0"],
        ["2", "absorb", "no reply", "1", "1"],
    ]


def test_many_clients_left_out_are_cut_short(make_run):
    run = read_run(make_run(num_rounds=1))
    together = [{"client_id": i, "phase": "share", "reason": "no reply"} for i in range(25)]
    apart = [{"client_id": i, "phase": "absorb", "reason": f"reason {i}"} for i in range(300)]
    text = left_out(replace(run, metrics=[run.metrics[0] | {"left_out": together + apart}]))
    rows = rows_of(text)
    assert rows[0][3:] == ["25", f"{', '.join(map(str, range(20)))} and 5 more"]
    assert len(rows) == 200
    assert "These are the first 200 of 301 lines" in text
