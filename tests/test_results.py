import os
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import flwr
import numpy as np
import pytest
import torch
from records import client, record, rounds

import fedfuse
from fedfuse import results
from fedfuse.errors import ConfigurationError
from fedfuse.metrics import round_metrics
from fedfuse.summary import read_summary

UNKNOWN = {"mean": None, "std": None, "worst": None, "worst_10_percent": None}


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_runs_that_start_together_get_directories_of_their_own(tmp_path, monkeypatch):
    class NineOClock(datetime):
        @classmethod
        def now(cls):
            return cls(2025, 3, 4, 9, 5, 6)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(results, "datetime", NineOClock)
    with ThreadPoolExecutor(8) as executor:
        made = list(executor.map(lambda _: results.create_directory(None, "knfu", "digits"), range(20)))
    expected = {Path("outputs/knfu/digits", f"2025-03-04_09-05-06-{number}") for number in range(1, 21)}
    assert set(made) == expected
    assert all(directory.is_dir() for directory in made)


def test_names_of_strategy_and_data_become_one_folder_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = results.create_directory(None, "my_package.MyStrategy", "../owner/data set")
    assert directory.parent == Path("outputs/my_package.MyStrategy/owner-data-set")


def test_an_explicit_output_may_be_new_or_empty(tmp_path):
    output = tmp_path / "a" / "b"
    assert results.create_directory(output, "knfu", "digits") == output
    assert results.create_directory(output, "knfu", "digits") == output
    assert output.is_dir()


def test_an_explicit_output_that_holds_something_is_refused(tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(ConfigurationError, match=f"not empty. Use resume={tmp_path} .* or name another"):
        results.create_directory(tmp_path, "knfu", "digits")
    with pytest.raises(ConfigurationError, match="not empty"):
        results.create_directory(tmp_path / "metrics.jsonl", "knfu", "digits")


def test_software_is_what_is_installed_here():
    assert results.software() == {
        "fedfuse": fedfuse.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "flwr": flwr.__version__,
        "python": ".".join(str(part) for part in sys.version_info[:3]),
        "machine": os.uname().machine,
    }


def test_write_text_replaces_the_file_as_a_whole(tmp_path, monkeypatch):
    results.write_text(tmp_path, "guarantees.json", "old")

    def fail(source, target):
        assert Path(source).read_text() == "né"  # all of the new text is on disk before it takes the name
        raise OSError("disk gone")

    with monkeypatch.context() as patched:
        patched.setattr(results.os, "replace", fail)
        with pytest.raises(OSError, match="disk gone"):
            results.write_text(tmp_path, "guarantees.json", "né")
    assert (tmp_path / "guarantees.json").read_text() == "old"
    results.write_text(tmp_path, "guarantees.json", "né")
    assert contents(tmp_path) == {"guarantees.json": "né".encode()}


def test_a_round_is_a_line_and_a_row_a_client(tmp_path):
    first = record(1, [client(0, 0.5, 0.25, 0.75, 1.5), client(7, None, 0.125, None, float("inf"))])
    second = record(2, [client(7, 1 / 3)])
    results.append_round(tmp_path, first)
    results.append_round(tmp_path, second)
    assert (tmp_path / "clients.csv").read_text() == (
        "round,client_id,personal_accuracy,general_accuracy,validation_accuracy,personal_loss\n"
        "1,0,0.5,0.25,0.75,1.5\n"
        "1,7,,0.125,,\n"
        f"2,7,{1 / 3!r},,,\n"
    )
    assert results.read_metrics(tmp_path) == [round_metrics(first), round_metrics(second)]
    assert results.read_clients(tmp_path) == {
        1: (client(0, 0.5, 0.25, 0.75, 1.5), client(7, None, 0.125)),
        2: (client(7, 1 / 3),),
    }
    assert not (tmp_path / "relevance.npz").exists()


def test_where_only_means_may_be_told_no_client_has_a_number_and_what_was_spent_stands_beside(tmp_path):
    first = record(1, [client(0, 0.5, 0.25, 0.75, 1.5), client(7, 1.0)])
    line = results.append_round(tmp_path, first, {"record": 1.5}, only_means=True)
    assert line == round_metrics(first, only_means=True) | {"epsilon": {"record": 1.5}}
    assert results.read_metrics(tmp_path) == [line]
    assert results.read_clients(tmp_path) == {1: (client(0), client(7))}


def test_nothing_is_read_where_nothing_was_recorded(tmp_path):
    assert results.read_metrics(tmp_path) == []
    assert results.read_clients(tmp_path) == {}
    assert results.read_latest_relevance(tmp_path) is None
    with pytest.raises(ConfigurationError, match=r"no summary\.json"):
        read_summary(tmp_path)


def test_readers_ignore_a_line_that_is_being_written(tmp_path):
    for one in rounds([1, 2]):
        results.append_round(tmp_path, one)
    for name in ("metrics.jsonl", "clients.csv"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-4])
    assert [line["round"] for line in results.read_metrics(tmp_path)] == [1]
    assert [len(clients) for clients in results.read_clients(tmp_path).values()] == [2, 1]


def test_relevance_keeps_every_round(tmp_path):
    early, late = np.eye(2), np.array([[0.25, 0.5, 0.25]] * 3)
    results.append_round(tmp_path, record(1, [client(0), client(1)], relevance=early))
    results.append_round(tmp_path, record(2, [client(0), client(4), client(9)], relevance=late))
    with np.load(tmp_path / "relevance.npz") as archive:
        assert sorted(archive.files) == ["clients_0001", "clients_0002", "round_0001", "round_0002"]
        np.testing.assert_array_equal(archive["round_0001"], early)
        np.testing.assert_array_equal(archive["clients_0001"], [0, 1])
    number, relevance, client_ids = results.read_latest_relevance(tmp_path)
    assert number == 2
    np.testing.assert_array_equal(relevance, late)
    np.testing.assert_array_equal(client_ids, [0, 4, 9])


def test_relevance_of_many_clients_keeps_the_latest_round_only(tmp_path):
    for one in rounds([1, 2], num_clients=256):
        results.append_round(tmp_path, one)
    with np.load(tmp_path / "relevance.npz") as archive:
        assert len(archive.files) == 4
    for one in rounds([3, 4], num_clients=257):
        results.append_round(tmp_path, one)
    with np.load(tmp_path / "relevance.npz") as archive:
        assert sorted(archive.files) == ["clients_0004", "round_0004"]


@pytest.mark.parametrize("last_round", [1, 9, 10])
def test_truncation_restores_the_files_byte_for_byte(tmp_path, last_round):
    for one in rounds(range(1, last_round + 1)):
        results.append_round(tmp_path, one)
    expected = contents(tmp_path)
    for one in rounds(range(last_round + 1, 13)):
        results.append_round(tmp_path, one)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 13, "partic')
    with (tmp_path / "clients.csv").open("a") as file:
        file.write("1")  # the beginning of round 13, which is no row of round 1
    assert contents(tmp_path) != expected
    results.truncate(tmp_path, last_round)
    assert contents(tmp_path) == expected


def test_a_run_truncated_to_its_start_records_as_a_new_one(tmp_path):
    for directory in (tmp_path / "resumed", tmp_path / "fresh"):
        results.append_round(directory, rounds([1])[0])
    (tmp_path / "resumed" / "clients.csv").write_text("round,cli")  # killed while it wrote the header
    results.truncate(tmp_path / "resumed", 0)
    assert results.read_metrics(tmp_path / "resumed") == []
    assert results.read_latest_relevance(tmp_path / "resumed") is None
    results.append_round(tmp_path / "resumed", rounds([1])[0])
    assert contents(tmp_path / "resumed") == contents(tmp_path / "fresh")


def test_truncating_a_directory_without_records_does_nothing(tmp_path):
    results.truncate(tmp_path, 3)
    assert contents(tmp_path) == {}
