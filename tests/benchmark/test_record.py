import json

import pytest

from fedfuse.benchmark.cells import Cell
from fedfuse.benchmark.measured import LeftOut
from fedfuse.benchmark.record import write_figure, write_json


def test_every_number_is_in_the_file(make_outcome, tmp_path):
    seconds = {"plain loop": [2.0, 6.0], "fedfuse stacked": [1.0, 2.0], "matrix product": [0.5, 0.5]}
    left_out = LeftOut(Cell("mlp64", "training", 100, 2), "pfl-research", "it is missing")
    outcome = make_outcome(seconds, clients=100, measured={"plain loop": 50}, left_out=[left_out])
    write_json(tmp_path, [outcome])
    facts = json.loads((tmp_path / "bench.json").read_text())
    assert facts["threads"] == 1
    assert set(facts["software"]) >= {"torch", "flwr", "fedfuse"}
    cell = {"model": "mlp64", "work": "training", "clients": 100, "repeats": 2}
    assert [row["contestant"] for row in facts["measured"]] == list(seconds)
    assert facts["measured"][0] == cell | {
        "contestant": "plain loop",
        "clients_measured": 50,
        "start_s": 2.5,
        "seconds": [2.0, 6.0],
        "median_s": 4.0,
        "times_the_plain_loop": [1.0, 1.0],
        "operations_a_second": 500.0,
        "of_a_matrix_product": pytest.approx(0.25),
    }
    assert facts["left_out"] == [cell | {"contestant": "pfl-research", "reason": "it is missing"}]


def test_the_figure_takes_the_place_of_an_earlier_one_as_a_whole(make_outcome, tmp_path):
    (tmp_path / "bench.png").write_text("earlier")
    write_figure(tmp_path, [make_outcome({"plain loop": [2.0], "fedfuse stacked": [1.0]})])
    assert [path.name for path in tmp_path.iterdir()] == ["bench.png"]
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
