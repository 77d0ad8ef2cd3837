import json

from records import client, record

from fedfuse import results
from fedfuse.summary import ClientFacts, read_summary, write_summary

UNKNOWN = {"mean": None, "std": None, "worst": None, "worst_10_percent": None}


def test_summary_gives_the_last_round_and_the_mean_of_the_last_five(tmp_path):
    for number, accuracy in enumerate([1.0, 0.125, 0.25, 0.5, 0.75, 0.375], start=1):
        results.append_round(tmp_path, record(number, [client(0, accuracy)]))
    summary = write_summary(tmp_path, {"strategy": "knfu", "seed": 3}, [])
    assert summary["num_rounds"] == 6
    assert summary["configuration"] == {"strategy": "knfu", "seed": 3}
    assert summary["metrics"]["personal_mean"] == {"last": 0.375, "mean_of_last_five": 0.4}
    assert summary["metrics"]["general_worst"] == {"last": None, "mean_of_last_five": None}
    assert list(summary["metrics"]) == [
        *(f"{kind}_{name}" for kind in ("personal", "general") for name in UNKNOWN),
        "validation_mean",
    ]
    assert (summary["bytes_up"], summary["bytes_down"]) == (600, 1800)
    assert summary["seconds"] == {"learn": 3.0, "round": 6.0}
    assert read_summary(tmp_path) == summary
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_summary_of_a_client_uses_its_latest_known_evaluations(tmp_path):
    results.append_round(tmp_path / "local_only", record(1, [client(0, 0.25), client(1, 0.75, 0.5)]))
    results.append_round(tmp_path, record(1, [client(0, 0.5, 0.125), client(1, 0.5, 0.25)]))
    results.append_round(tmp_path, record(2, [client(0, None, 0.375)]))
    facts = [
        ClientFacts(0, "mlp", 40, (30, 10)),
        ClientFacts(1, "lenet", None, None),
        ClientFacts(2, "mlp", 9, None),
    ]
    summary = write_summary(tmp_path, {}, facts, class_names=["cat", "dog"])
    assert summary["class_names"] == ["cat", "dog"]
    names = ["local_only_accuracy", "personal_accuracy", "gain", "general_accuracy"]
    assert summary["clients"][0] == {
        "client_id": 0,
        "model": "mlp",
        "num_examples": 40,
        "label_counts": [30, 10],
        "local_only_accuracy": 0.25,
        "personal_accuracy": 0.5,
        "gain": 0.25,
        "general_accuracy": 0.375,
    }
    assert [summary["clients"][1][name] for name in names] == [0.75, 0.5, -0.25, 0.25]
    assert [summary["clients"][2][name] for name in names] == [None] * 4


def test_spread_compares_the_clients_that_both_runs_evaluated(tmp_path):
    results.append_round(tmp_path / "local_only", record(1, [client(0, 0.25), client(1, 0.5), client(2, 1.0)]))
    results.append_round(tmp_path, record(1, [client(0, 0.5, 0.25), client(1, 1.0, 0.75)]))
    spread = write_summary(tmp_path, {}, [])["spread"]
    assert spread["local_only"]["personal"] == {
        "mean": 0.375,
        "std": 0.125,
        "worst": 0.25,
        "worst_10_percent": 0.25,
    }
    assert spread["federated"]["personal"]["mean"] == 0.75
    assert spread["local_only"]["general"] is None
    assert spread["federated"]["general"]["mean"] == 0.5


def test_spread_without_a_baseline_is_over_all_clients(tmp_path):
    results.append_round(tmp_path, record(1, [client(0, 0.5), client(1, 1.0)]))
    spread = write_summary(tmp_path, {}, [])["spread"]
    assert spread["local_only"] == {"personal": None, "general": None}
    assert spread["federated"]["personal"]["mean"] == 0.75
