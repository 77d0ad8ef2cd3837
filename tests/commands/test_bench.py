import json
from contextlib import contextmanager

import pytest

from fedfuse.benchmark.measured import Measured, Outcome
from fedfuse.cli import main

pytestmark = pytest.mark.usefixtures("own_search_path")


@pytest.fixture
def held(monkeypatch):
    """Put a referee in place that notes the works and the cells, and measures nothing."""
    held = []

    @contextmanager
    def opponents_for(works, log):
        held.append((tuple(works), log.name))
        yield {}

    def hold(cells, opponents):
        for cell in cells:
            held.append(cell)
            seconds = {"plain loop": 2.0, "fedfuse local": 1.0, "Flower on Ray": 12.0}
            rows = (Measured(cell, name, cell.clients, 10, 3.0, (own,) * cell.repeats) for name, own in seconds.items())
            yield Outcome(cell, tuple(rows))

    monkeypatch.setattr("fedfuse.benchmark.referee.opponents_for", opponents_for)
    monkeypatch.setattr("fedfuse.benchmark.referee.hold", hold)
    return held


def cells(held):
    return [(cell.model, cell.work, cell.clients, cell.repeats) for cell in held[1:]]


def test_what_the_words_name_is_measured_printed_and_written(held, capsys, tmp_path):
    words = ["--models", "lenet", "mlp64", "--work", "round", "--clients", "5", "5", "20", "--repeats", "2"]
    assert main(["bench", *words, "--output", "mine"]) == 0
    assert held[0] == (("round",), "bench.log")
    assert cells(held) == [(model, "round", number, 2) for model in ("lenet", "mlp64") for number in (5, 20)]
    output = capsys.readouterr().out
    assert output.startswith("4 cells, each measured 2 times after once to warm up, in mine\n[1/4] lenet, ")
    assert "mlp64, whole KnFu round, 20 clients: 12.0 (12.0 to 12.0) times as quick as Flower on Ray." in output
    assert output.endswith("Files: mine\n")
    assert len(json.loads((tmp_path / "mine" / "bench.json").read_text())["measured"]) == 12
    assert (tmp_path / "mine" / "bench.png").is_file()


def test_without_words_every_model_does_every_work(held, tmp_path):
    assert main(["bench"]) == 0
    assert len(cells(held)) == 4 * 3
    assert {(number, repeats) for *_, number, repeats in cells(held)} == {(100, 3)}
    (directory,) = (tmp_path / "outputs" / "bench").iterdir()
    assert (directory / "bench.json").is_file()


def test_quick_is_one_small_model_unless_words_say_otherwise(held):
    assert main(["bench", "--quick"]) == 0
    assert cells(held) == [("mlp64", work, 100, 2) for work in ("training", "distillation", "round")]
    held.clear()
    assert main(["bench", "--quick", "--models", "lenet", "--work", "training", "--clients", "3"]) == 0
    assert cells(held) == [("lenet", "training", 3, 2)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--models", "mlp"], "Unknown model 'mlp'. Did you mean 'mlp64'? Valid: lenet, mlp64, mlp784, resnet8."),
        (["--work", "rounds"], "Unknown work 'rounds'. Did you mean 'round'? Valid: distillation, round, training."),
        (["--clients", "10", "0"], "--clients must be a whole number of at least 1, not '0'."),
        (["--repeats", "1.5"], "--repeats must be a whole number of at least 1, not '1.5'."),
        (["--repeats"], "Argument --repeats: expected one argument."),
        (["--quik"], "Unknown option '--quik'. Did you mean '--quick'?"),
        (["fast"], "Unknown argument 'fast'. Valid: "),
        (["--output", "."], ". exists and is not empty: name another directory."),
    ],
)
def test_mistakes_are_answered_in_one_line_before_anything_is_measured(held, capsys, tmp_path, words, message):
    (tmp_path / "something").touch()
    assert main(["bench", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"fedfuse: error: {message}")
    assert error.count("\n") == 1
    assert not held
