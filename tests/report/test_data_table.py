import io

import numpy as np
import pytest
from rich.console import Console

from fedfuse.data.description import Description, Range
from fedfuse.report.data_table import print_description


def described(**changes):
    counts = np.array([[3, 1, 0], [0, 2, 0]])
    values = {
        "num_samples": 12,
        "shape": (1, 2, 3),
        "dtype": "uint8",
        "classes": {"cat": 5, "[bold]dog": 6, "eel": 1},
        "natural_clients": None,
        "num_natural_clients": None,
        "domains": None,
        "num_transfer": 2,
        "transfer_from_source": True,
        "num_global_test": 3,
        "num_client_samples": 6,
        "num_left_out": 0,
        "num_unused": 1,
        "label_counts": counts,
        "client_sizes": Range(2.0, 3.0, 4.0),
        "classes_per_client": Range(1.0, 1.5, 2.0),
        "label_entropy": Range(0.0, 0.4056, 0.8113),
        "divergence": 0.4321,
        "num_clients_compared": 2,
        "classes_of_nobody": ("eel",),
        "neighbours_apart": None,
    }
    return Description(**values | changes)


def shown(description):
    stream = io.StringIO()
    print_description(Console(file=stream, width=80), "pets", description)
    return [" ".join(line.split()) for line in stream.getvalue().splitlines()]


def test_all_that_is_known_is_shown():
    lines = shown(described())
    assert lines[0] == "Data pets: 12 samples of 1 x 2 x 3, uint8"
    assert "3 classes" in lines
    assert "class samples in per cent held by clients clients" in lines
    assert "cat 5 41.7 3 1" in lines
    assert "[bold]dog 6 50.0 3 2" in lines
    assert "eel 1 8.3 0 0" in lines
    start = lines.index("set samples") + 2
    assert lines[start : start + 4] == ["transfer set 2", "global test set 3", "2 clients 6", "unused 1"]
    assert "samples 2 3 4" in lines
    assert "classes 1 1.5 2" in lines
    assert "entropy of its label mix (bits) 0.00 0.41 0.81" in lines
    assert any(line.startswith("Two clients differ by 0.432 bits on average over the pairs of all") for line in lines)
    assert lines[-1] == "Classes that no client has: eel"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"transfer_from_source": False}, "transfer set, from elsewhere 2"),
        ({"num_left_out": 7}, "left out by split.samples 7"),
        ({"neighbours_apart": 4}, "Neighbours in time held by different clients: 4"),
        (
            {"natural_clients": Range(1.0, 2.5, 9.0), "num_natural_clients": 4},
            "4 natural clients with 1 to 9 (median 2.5) samples",
        ),
        ({"domains": {"photo": 9, "sketch": 3}}, "sketch 3 25.0"),
    ],
)
def test_what_not_every_source_has_is_shown_where_it_is(changes, line):
    assert line in shown(described(**changes))
    assert line not in shown(described())


def test_clients_that_were_drawn_for_comparison_are_said_to_be():
    lines = shown(described(num_clients_compared=1))
    assert any("over the pairs of 1 clients drawn at random" in line for line in lines)


def test_nothing_is_said_that_is_not_so():
    text = "\n".join(shown(described(divergence=None, classes_of_nobody=())))
    assert "differ by" not in text
    assert "no client" not in text
    assert "from elsewhere" not in text


def test_of_many_classes_the_most_and_the_least_frequent_are_shown():
    classes = {f"c{label}": 100 - label for label in range(30)}
    lines = shown(described(classes=classes, label_counts=np.ones((2, 30), dtype=int)))
    assert "30 classes, the 10 most and the 10 least frequent ones" in lines
    named = [line.split()[0] for line in lines if line[:1] == "c" and line[1:2].isdigit()]
    assert named == [f"c{label}" for label in (*range(10), *range(20, 30))]
    assert "10 more classes ... ... ... ..." in lines
