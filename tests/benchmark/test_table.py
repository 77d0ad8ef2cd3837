from io import StringIO

import pytest
from rich.console import Console

from fedfuse.benchmark.cells import Cell
from fedfuse.benchmark.measured import LeftOut
from fedfuse.benchmark.table import format_number, notes, outcome_table, print_outcomes, progress_line

PRODUCT = {"matrix product": [0.5, 0.5]}
TRAINING = {"plain loop": [2.0, 6.0], "fedfuse stacked": [1.0, 2.0]} | PRODUCT
ROUND = {"plain loop": [2.0, 2.0], "fedfuse local": [1.0, 1.0], "Flower on Ray": [12.0, 10.0]} | PRODUCT


def printed(table):
    console = Console(file=StringIO(), width=140)
    console.print(table)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines() if line.strip()]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.01234, "0.0123"),
        (1.2, "1.20"),
        (45.67, "45.7"),
        (456.7, "457"),
        (999.6, "1,000"),
        (12345.6, "12,346"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert format_number(value) == text


def test_a_cell_is_a_line_while_it_goes_on(make_outcome):
    outcome = make_outcome(TRAINING, clients=1000)
    line = "[ 3/12] mlp64, local training, 1,000 clients  times the plain loop: fedfuse stacked 2.50"
    assert progress_line(3, 12, outcome) == line
    outcome = make_outcome({"fedfuse stacked": [1.0]})
    assert progress_line(3, 3, outcome) == "[3/3] mlp64, local training, 10 clients  nothing to compare"


def test_the_table_has_a_row_for_each_contestant_but_the_product(make_outcome):
    outcome = make_outcome(TRAINING, clients=1000, measured={"plain loop": 100})
    header, _, loop, stacked = printed(outcome_table([outcome]))
    assert header.startswith("model work clients who seconds times the loop of a product start")
    # The product has 1,000 operations in 0.5 s; the loop as many in 4 s, of a tenth of the clients.
    assert loop == "mlp64 local training 1,000 plain loop 4.00 (2.00 to 6.00)* 1 125.0% 2.5 s"
    assert stacked == "fedfuse stacked 1.50 (1.00 to 2.00) 2.50 (2.00 to 3.00) 33.3% 2.5 s"


def test_without_the_plain_loop_or_the_product_the_table_says_so(make_outcome):
    *_, row = printed(outcome_table([make_outcome({"fedfuse stacked": [1.0]})]))
    assert row.endswith("1.00 (1.00 to 1.00) - - 2.5 s")


def test_what_was_left_out_is_said_once(make_outcome):
    left_out = [LeftOut(Cell("mlp64", "training", number, 2), "pfl-research", "it is missing") for number in (1, 2)]
    outcomes = [make_outcome(TRAINING, left_out=[one]) for one in left_out]
    assert [line for line in notes(outcomes) if "Left out" in line] == ["Left out: pfl-research: it is missing."]


def test_scaled_times_have_a_note_only_where_there_are_some(make_outcome):
    assert not any("scaled" in line for line in notes([make_outcome(TRAINING)]))
    scaled = make_outcome(TRAINING, clients=100, measured={"plain loop": 10})
    assert sum("scaled" in line for line in notes([scaled])) == 1


def test_whole_rounds_are_compared_with_ray(make_outcome):
    *_, line = notes([make_outcome(TRAINING), make_outcome(ROUND, work="round", clients=100)])
    said = "mlp64, whole KnFu round, 100 clients: 11.0 (10.0 to 12.0) times as quick as Flower on Ray."
    assert line == said
    *_, line = notes([make_outcome(ROUND, work="round", clients=100, measured={"plain loop": 10})])
    assert line == said.replace("Ray", "Ray*")
    assert not any("Ray" in line for line in notes([make_outcome({"fedfuse local": [1.0]}, work="round")]))


def test_all_is_printed_whole_on_a_narrow_console(make_outcome):
    console = Console(file=StringIO(), width=40)
    seconds = {"fedfuse sequential": [0.012345, 0.0123]} | ROUND
    print_outcomes(console, [make_outcome(seconds, "resnet8", "round", 1000)])
    text = console.file.getvalue()
    assert "…" not in text
    assert "resnet8" in text
    assert "whole KnFu round" in text
    assert text.rstrip().endswith("times as quick as Flower on Ray.")
