import pytest
from records import client, record

from fedfuse.metrics import LeftOut, Spread, round_metrics, summarise, without_metrics

ROUND = record(4, [client(0, 0.5, 0.25, 0.75, 1.5), client(1, 1.0, None, 0.25, 0.5)])
UNKNOWN = {"mean": None, "std": None, "worst": None, "worst_10_percent": None}


def test_spread_of_known_values():
    spread = summarise([0.5, 0.75, 0.25, 1.0])
    assert spread == Spread(mean=0.625, std=pytest.approx(0.3125**0.5 / 2), worst=0.25, worst_10_percent=0.25)


@pytest.mark.parametrize(("num_values", "num_worst"), [(1, 1), (10, 1), (11, 2), (20, 2), (30, 3), (31, 4)])
def test_worst_10_percent_takes_the_ceiling_of_a_tenth(num_values, num_worst):
    values = list(range(num_values, 0, -1))  # the worst are 1, 2, 3, ...
    assert summarise(values).worst_10_percent == (num_worst + 1) / 2


def test_no_values_cannot_be_summarised():
    with pytest.raises(ValueError, match="no client has a value"):
        summarise([])


def test_round_metrics_is_the_flat_line_of_a_round():
    left_out = (LeftOut(3, "share", "soft labels are not finite"),)
    clients = [client(0, 0.5, 0.25, 0.75, 1.5), client(1, 1.0, None, 0.25, 0.5)]
    assert round_metrics(record(4, clients, left_out=left_out)) == {
        "round": 4,
        "participants": 2,
        "left_out": [{"client_id": 3, "phase": "share", "reason": "soft labels are not finite"}],
        "personal_mean": 0.75,
        "personal_std": 0.25,
        "personal_worst": 0.5,
        "personal_worst_10_percent": 0.5,
        "general_mean": 0.25,
        "general_std": 0.0,
        "general_worst": 0.25,
        "general_worst_10_percent": 0.25,
        "validation_mean": 0.5,
        "bytes_up": 100,
        "bytes_down": 300,
        "seconds": {"learn": 0.5, "round": 1.0},
    }


def test_with_means_only_nothing_else_is_told():
    line = round_metrics(ROUND, only_means=True)
    everything = round_metrics(ROUND)
    told = {"personal_mean", "general_mean", "validation_mean"}
    spread = {f"{which}_{name}" for which in ("personal", "general") for name in ("std", "worst", "worst_10_percent")}
    assert {name: line[name] for name in told} == {name: everything[name] for name in told}
    assert {line[name] for name in spread} == {None}
    assert {name: line[name] for name in line.keys() - spread} == {
        name: everything[name] for name in line.keys() - spread
    }


def test_a_record_without_metrics_keeps_who_took_part():
    bare = without_metrics(ROUND)
    assert [client.client_id for client in bare.clients] == [client.client_id for client in ROUND.clients]
    assert {value for client in bare.clients for name, value in vars(client).items() if name != "client_id"} == {None}
    assert bare.bytes_up == ROUND.bytes_up


def test_unknown_and_not_finite_metrics_are_null_never_nan():
    metrics = round_metrics(record(1, [client(0, personal=float("nan"))]))
    assert {name: metrics[f"personal_{name}"] for name in UNKNOWN} == UNKNOWN
    assert {name: metrics[f"general_{name}"] for name in UNKNOWN} == UNKNOWN
    assert metrics["validation_mean"] is None
