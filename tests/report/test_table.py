import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from fedfuse.report.table import final_table, footer_lines, format_bytes, format_gain, print_summary

SPREAD_BEFORE = {"mean": 0.5, "std": 0.125, "worst": 0.25, "worst_10_percent": 0.3}
SPREAD_AFTER = {"mean": 0.75, "std": 0.0625, "worst": 0.5, "worst_10_percent": 0.25}
SPREAD_GENERAL = {"mean": 0.61, "std": 0.02, "worst": 0.58, "worst_10_percent": 0.59}


def client(client_id, before=0.5, after=0.75, general=0.61, model="mlp", num_examples=100):
    return {
        "client_id": client_id,
        "model": model,
        "num_examples": num_examples,
        "label_counts": None,
        "local_only_accuracy": before,
        "personal_accuracy": after,
        "gain": None if before is None or after is None else after - before,
        "general_accuracy": general,
    }


def summary(clients, before=SPREAD_BEFORE, after=SPREAD_AFTER, general=SPREAD_GENERAL, num_rounds=20):
    return {
        "clients": clients,
        "spread": {
            "local_only": {"personal": before, "general": None},
            "federated": {"personal": after, "general": general},
        },
        "num_rounds": num_rounds,
        "bytes_up": 12_345,
        "bytes_down": 2_500_000,
        "seconds": {"learn": 2.04, "fuse": 0.26, "round": 2.5},
    }


def printed(result, width=80, **terminal):
    console = Console(file=io.StringIO(), width=width, **terminal)
    print_summary(console, result, Path("outputs/knfu/digits/2025-01-01_00-00-00-1"))
    return console.file.getvalue()


def cells(text, first):
    """The words of the line that begins with the given words."""
    (line,) = [line for line in text.splitlines() if line.split()[: len(first)] == first]
    return line.split()[len(first) :]


def test_every_client_and_the_spread_have_a_row():
    text = printed(summary([client(0), client(1, before=0.8125, after=0.75, model="lenet", general=None)]))
    assert cells(text, ["0", "100"]) == ["mlp", "50.0", "75.0", "+25.0", "61.0"]
    assert cells(text, ["1", "100"]) == ["lenet", "81.2", "75.0", "-6.2", "-"]
    assert cells(text, ["mean"]) == ["50.0", "75.0", "+25.0", "61.0"]
    assert cells(text, ["std", "dev"]) == ["12.5", "6.2", "2.0"]  # a change of spread is no gain
    assert cells(text, ["worst", "25.0"]) == ["50.0", "+25.0", "58.0"]
    assert cells(text, ["worst", "10", "%"]) == ["30.0", "25.0", "-5.0", "59.0"]


def test_unknown_metrics_are_dashes():
    text = printed(summary([client(3, None, None, None, num_examples=None)], None, None, None))
    assert cells(text, ["3", "-"]) == ["mlp", "-", "-", "-", "-"]
    assert cells(text, ["mean"]) == ["-", "-", "-", "-"]
    assert "Global test" not in text
    assert "None" not in text


def test_the_table_is_ascii_and_80_columns_wide_whatever_its_clients():
    clients = [client(i, model="a_model_with_a_very_long_name[bold]") for i in range(1000, 1012)]
    text = printed(summary(clients))
    assert text.isascii()
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "\x1b" not in text


def test_gains_are_coloured_by_their_sign_in_a_terminal():
    clients = [client(0), client(1, before=0.8, after=0.75), client(2, before=0.75, after=0.75)]
    text = printed(summary(clients), force_terminal=True, color_system="standard", _environ={"TERM": "xterm"})
    green, red, end = r"\x1b\[32m *", r"\x1b\[31m *", r"\x1b\[0m"
    assert re.search(rf"{green}\+25\.0{end}", text)
    assert re.search(rf"{red}-5\.0{end}", text)
    assert "+0.0" in text
    assert not re.search(r"m *\+0\.0", text)


def shown_ids(text):
    return [int(line.split()[0]) for line in text.splitlines() if line[:10].strip().isdigit()]


def test_forty_clients_are_all_shown_in_their_order():
    text = printed(summary([client(i, after=1 - i / 100) for i in range(40)]))
    assert shown_ids(text) == list(range(40))
    assert "20 worst" not in text


def test_of_more_clients_the_20_worst_and_the_20_best_are_shown():
    clients = [client(i, after=1 - i / 100) for i in range(50)]  # the highest id is the worst
    clients[30] = client(30, after=None)
    clients[40]["personal_accuracy"] = clients[41]["personal_accuracy"]  # of equals, the lower id is first
    text = printed(summary(clients))
    worst = [*range(49, 41, -1), 40, 41, *range(39, 30, -1), 29]
    best = [*range(19, -1, -1)]
    assert shown_ids(text) == worst + best
    assert "The 20 worst and the 20 best of 50 clients" in text
    assert cells(text, ["..."] * 2) == ["10", "more", "clients", *["..."] * 4]


def test_it_says_over_which_clients_the_spread_is_if_not_over_all():
    text = " ".join(printed(summary([client(0), client(1, before=None), client(2)])).split())
    assert "Mean and spread are over the 2 clients evaluated both before and after" in text
    assert "spread are over" not in printed(summary([client(0), client(1)]))
    assert "spread are over" not in printed(summary([client(0, before=None)]))


def test_footer_lines():
    directory = Path("outputs/a [run]")
    both = summary([client(0)])
    both["spread"]["local_only"]["general"] = {"mean": 0.5}
    assert footer_lines(both, directory) == [
        "Global test: local only 50.0 %, federated 61.0 % (+11.0)",
        "Sent:        12.3 kB up, 2.5 MB down, in 20 rounds",
        "Time:        2.5 s (learn 2.0, fuse 0.3)",
        "Files:       outputs/a [run]",
    ]
    one = summary([client(0)], num_rounds=1)
    assert footer_lines(one, directory)[0] == "Global test: federated 61.0 %"
    assert footer_lines(one, directory)[1].endswith("in 1 round")
    text = printed(one)
    assert text.splitlines()[-1] == "Files:       outputs/knfu/digits/2025-01-01_00-00-00-1"


def test_a_table_can_be_printed_by_itself():
    assert final_table(summary([client(0), client(1)])).row_count == 6


@pytest.mark.parametrize(
    ("num_bytes", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (12_345, "12.3 kB"),
        (999_940, "999.9 kB"),
        (999_950, "1.0 MB"),
        (3_210_000_000, "3.2 GB"),
        (5e15, "5000.0 TB"),
    ],
)
def test_bytes_are_shown_in_the_decimal_unit_that_fits(num_bytes, shown):
    assert format_bytes(num_bytes) == shown


@pytest.mark.parametrize(
    ("gain", "shown"), [(0.051, "+5.1"), (-0.2, "-20.0"), (-0.0001, "+0.0"), (0.0, "+0.0"), (None, "-")]
)
def test_a_gain_has_a_sign(gain, shown):
    assert format_gain(gain) == shown
