import records

from fedfuse.metrics import LeftOut, round_metrics
from fedfuse.tracking.scalars import grouped, scalars


def test_numbers_of_a_round_are_named_in_groups():
    clients = [records.client(0, 0.5, 0.25, 0.75), records.client(1, 0.75, 0.5, 0.25)]
    left_out = (LeftOut(2, "share", "timeout"),)
    assert scalars(round_metrics(records.record(3, clients, left_out=left_out, learn=1.5))) == {
        "clients/participants": 2,
        "clients/left_out": 1,
        "personal/mean": 0.625,
        "personal/std": 0.125,
        "personal/worst": 0.5,
        "personal/worst_10_percent": 0.5,
        "general/mean": 0.375,
        "general/std": 0.125,
        "general/worst": 0.25,
        "general/worst_10_percent": 0.25,
        "validation/mean": 0.5,
        "bytes/up": 100,
        "bytes/down": 300,
        "seconds/learn": 1.5,
        "seconds/round": 3.0,
    }


def test_what_is_unknown_has_no_scalar():
    names = set(scalars(round_metrics(records.record(1, [records.client(0, personal=0.5)]))))
    assert {name.split("/")[0] for name in names} == {"clients", "personal", "bytes", "seconds"}


def test_only_the_first_word_is_a_group():
    assert grouped("personal_worst_10_percent") == "personal/worst_10_percent"
