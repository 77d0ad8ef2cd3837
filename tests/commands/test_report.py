import sys
from types import SimpleNamespace

import pytest

from fedfuse.cli import main
from fedfuse.composition import compose
from fedfuse.configuration import to_yaml

pytestmark = pytest.mark.usefixtures("own_search_path")


def test_report_of_a_run_is_written_and_its_path_printed(capsys, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(to_yaml(compose(["strategy=fedmd"])))
    assert main(["report", "run"]) == 0
    assert capsys.readouterr().out == "run/report.html\n"
    assert "<h1>fedmd on digits</h1>" in (tmp_path / "run" / "report.html").read_text()


def test_report_of_a_comparison_is_left_to_it(capsys, monkeypatch, tmp_path):
    module = SimpleNamespace(write_report=lambda directory: directory / "comparison's report")
    monkeypatch.setitem(sys.modules, "fedfuse.compare.report", module)
    (tmp_path / "plan.json").write_text("{}")
    assert main(["report", "."]) == 0
    assert capsys.readouterr().out == "comparison's report\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "There is nothing to report on in 'nowhere': no such directory."),
        (["."], "There is nothing to report on in '.': it has neither the config.yaml of a run nor the plan.json"),
        ([".", "more"], "Unknown argument 'more'. Valid: --help."),
    ],
)
def test_mistakes_are_answered_in_one_line(capsys, words, message):
    assert main(["report", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"fedfuse: error: {message}")
    assert error.count("\n") == 1


def test_report_needs_a_directory(capsys):
    assert main(["report"]) == 2
    assert "DIR" in capsys.readouterr().err
