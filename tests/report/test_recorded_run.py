import os
from datetime import datetime

import pytest

from fedfuse.errors import ConfigurationError
from fedfuse.report.recorded_run import is_run, read_run
from fedfuse.results import SOFTWARE_FILE, write_text


def test_a_finished_run_is_what_its_summary_says(make_run):
    run = read_run(make_run(num_clients=3, num_rounds=2))
    assert run.is_finished
    assert run.configuration.num_clients == 3
    assert [line["round"] for line in run.metrics] == [line["round"] for line in run.local_only_metrics] == [1, 2]
    assert [client["gain"] for client in run.clients] == pytest.approx([0.2, 0.2, 0.2])
    assert [client["label_counts"] for client in run.clients] == [[0, 10], [1, 19], [2, 28]]
    assert run.local_only["personal"]["mean"] == pytest.approx(0.1)
    assert run.federated["personal"]["worst"] == 0.2
    assert run.class_names == ["cat", "dog"]
    assert run.guarantees["differential_privacy"] is False
    round, relevance, client_ids = run.relevance
    assert (round, relevance.shape, client_ids.tolist()) == (2, (3, 3), [0, 1, 2])


def test_a_run_that_has_not_ended_is_what_its_rounds_say(make_run):
    run = read_run(make_run(finished=False, baseline_rounds=1))
    assert not run.is_finished
    assert run.federated["personal"]["mean"] == pytest.approx(0.3)
    assert run.federated["general"] == pytest.approx(
        {"mean": 0.1, "std": 0.02**0.5 / 3**0.5, "worst": 0, "worst_10_percent": 0}
    )
    assert run.local_only == {"personal": None, "general": None}  # its baseline has not got as far
    assert [client["personal_accuracy"] for client in run.clients] == [0.2, 0.3, 0.4]
    assert {(client["model"], client["num_examples"], client["gain"]) for client in run.clients} == {(None, None, None)}


def test_a_baseline_of_as_many_rounds_counts_before_the_summary(make_run):
    run = read_run(make_run(finished=False))
    assert run.local_only["personal"]["mean"] == pytest.approx(0.1)
    assert [client["gain"] for client in run.clients] == pytest.approx([0.2, 0.2, 0.2])


def test_the_summary_of_an_earlier_end_still_tells_who_the_clients_are(make_run):
    directory = make_run(num_rounds=1)
    (directory / "metrics.jsonl").unlink()
    (directory / "clients.csv").unlink()
    run = read_run(make_run(num_rounds=2, finished=False, baseline_rounds=0))
    assert not run.is_finished
    assert [client["num_examples"] for client in run.clients] == [10, 20, 30]
    assert [client["personal_accuracy"] for client in run.clients] == [0.2, 0.3, 0.4]
    assert {client["local_only_accuracy"] for client in run.clients} == {None}


def test_a_run_before_its_first_round_has_its_configuration_only(make_run):
    directory = make_run()
    for path in directory.rglob("*"):
        if path.is_file() and path.name != "config.yaml":
            path.unlink()
    run = read_run(directory)
    assert (run.metrics, run.clients, run.relevance, run.guarantees) == ([], [], None, None)
    assert run.software == {}
    assert not run.is_finished


def test_the_latest_known_accuracy_counts_and_unknown_stays_unknown(make_run):
    directory = make_run(num_rounds=1, finished=False, known=False)
    assert [client["personal_accuracy"] for client in read_run(directory).clients] == [None, None, None]
    with (directory / "clients.csv").open("a") as file:
        file.write("2,0,0.75,,,\n3,0,,0.5,,\n")
    first, *_ = read_run(directory).clients
    assert (first["personal_accuracy"], first["general_accuracy"]) == (0.75, 0.5)


def test_it_was_recorded_when_its_last_round_was(make_run):
    directory = make_run()
    os.utime(directory / "metrics.jsonl", (1_000_000_000, 1_000_000_000))
    assert read_run(directory).last_recorded == datetime.fromtimestamp(1_000_000_000)


def test_what_it_ran_with_is_what_was_written_when_it_began(make_run):
    directory = make_run()
    assert read_run(directory).software == {}
    write_text(directory, SOFTWARE_FILE, '{"torch": "1.2.3", "fedfuse": "0.0.7"}')
    assert list(read_run(directory).software.items()) == [("torch", "1.2.3"), ("fedfuse", "0.0.7")]


def test_other_directories_are_no_runs(tmp_path):
    assert not is_run(tmp_path)
    with pytest.raises(ConfigurationError, match=r"no config\.yaml: it is not the directory of a run"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", "seed: ["),
        ("config.yaml", "seed: 0"),
        ("metrics.jsonl", "{\n"),
        ("summary.json", "{"),
        ("relevance.npz", "PK"),
        ("guarantees.json", "\udcff"),
        ("software.json", "{"),
        ("software.json", "\udcff"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(make_run, name, content):
    directory = make_run()
    (directory / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigurationError) as error:
        read_run(directory)
    assert str(error.value).startswith(f"{directory / name}")
    assert "\n" not in str(error.value)


def test_a_damaged_table_of_clients_is_named(make_run):
    directory = make_run(finished=False)
    (directory / "clients.csv").write_text("round,client_id\nx,y\n")
    with pytest.raises(ConfigurationError, match=r"clients\.csv cannot be read \(ValueError\): it is damaged"):
        read_run(directory)
