import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fedfuse.compare.comparison import make_comparison
from fedfuse.compare.outcome import Outcome
from fedfuse.compare.plan import Plan, open_directory
from fedfuse.compare.report import command_of, make_page, read_outcomes, write_files, write_report
from fedfuse.errors import ConfigurationError

FILES = {"comparison.md", "comparison.csv", "comparison.json", "comparison.png", "report.html", "plan.json"}


class Tables(HTMLParser):
    """The texts of the cells of all tables, and all links."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.links, self.is_cell = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.is_cell = True
            self.rows[-1].append("")
        elif tag == "a":
            self.links.append(dict(attributes)["href"])

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.is_cell = False

    def handle_data(self, text):
        if self.is_cell:
            self.rows[-1][-1] += text


@pytest.fixture
def finished(make_plan, write_rounds, tmp_path):
    """The plan of a comparison of which one run is missing."""
    plan = make_plan(notes=("Beware of <b>.",))
    open_directory(plan, tmp_path)
    for run, accuracy in zip(plan.runs[:3], (0.5, 0.6, 0.4), strict=True):
        write_rounds(tmp_path, run, accuracy=accuracy)
    return plan


def test_report_is_written_from_what_is_there(finished, tmp_path):
    assert write_report(tmp_path) == tmp_path / "report.html"
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == FILES
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    rows = Tables((tmp_path / "report.html").read_text()).rows
    assert ["local", "2/2", "46.5 ± 7.1", "24.0 ± 3.5", "46.5 ± 7.1", "800 B", "2.0 ± 0.0"] in rows
    assert ["own test", "knfu", "+10.0", "-", "- (one seed)", "-"] in rows
    assert ["knfu-seed=1", "knfu", "1", "-", "-", "-", "not finished"] in rows
    assert "3 of 4 runs have finished" in (tmp_path / "report.html").read_text()


def test_the_same_results_give_the_same_bytes(finished, tmp_path):
    write_report(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    write_report(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == before


def test_reports_of_runs_are_linked_where_they_are(finished, tmp_path):
    (tmp_path / "runs" / "knfu-seed=0" / "report.html").write_text("")
    links = Tables(write_report(tmp_path).read_text()).links
    assert [link for link in links if not link.startswith("#")] == ["runs/knfu-seed%3D0/report.html"]


def test_failures_are_kept_until_the_run_has_finished(finished, write_rounds, tmp_path):
    outcomes = read_outcomes(tmp_path, finished) | {"knfu-seed=1": Outcome(error="Out of <memory>.")}
    write_files(tmp_path, finished, make_comparison(finished, outcomes))
    assert read_outcomes(tmp_path, finished) == outcomes
    text = write_report(tmp_path).read_text()
    assert "knfu failed: Out of &lt;memory&gt;." in text
    assert "Beware of &lt;b&gt;." in text
    write_rounds(tmp_path, finished.runs[3])
    assert read_outcomes(tmp_path, finished)["knfu-seed=1"].error is None
    assert "failed" not in write_report(tmp_path).read_text()


def test_settings_have_columns_of_their_own(make_plan, measured, tmp_path):
    plan = make_plan(settings=(("partition.alpha=0.1", "num_clients=3"), ("partition.alpha=1", "num_clients=3")))
    comparison = make_comparison(plan, {run.folder: measured(0.5) for run in plan.runs})
    rows = Tables(make_page(tmp_path, plan, comparison, b"")).rows
    assert ["run", "partition.alpha", "num_clients", "method", "seed"] in [row[:5] for row in rows]
    assert ["local-1-3-seed=0", "1", "3", "local", "0"] in [row[:5] for row in rows]


def test_differences_are_coloured_where_they_are_more_than_chance(make_plan, measured, tmp_path):
    plan = make_plan(("local", "a", "b", "c"), seeds=(0, 1, 2))
    own = {"local": 0.5, "a": 0.7, "b": 0.3, "c": 0.55}
    noise = {"local": (0, 0, 0), "a": (0, 0.01, 0.02), "b": (0, 0.01, 0.02), "c": (0, 0.1, -0.1)}
    outcomes = {run.folder: measured(own[run.method] + noise[run.method][run.seed]) for run in plan.runs}
    text = make_page(tmp_path, plan, make_comparison(plan, outcomes), b"")
    tones = dict(re.findall(r'<td>own test</td><td>(\w)</td><td class="number ?(\w*)"', text))
    assert tones == {"a": "good", "b": "bad", "c": ""}


def test_command_is_written_as_in_a_shell():
    plan = Plan(("strategy=knfu", "model=[{name: a}]"), "/my own", (), ())
    assert command_of(plan) == "fedfuse compare strategy=knfu 'model=[{name: a}]' '--config-dir=/my own'"


def test_files_are_replaced_as_a_whole(finished, monkeypatch, tmp_path):
    replaced = []
    replace = os.replace

    def note(source, target):
        replaced.append((Path(source).name, Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "replace", note)
    write_report(tmp_path)
    names = ["comparison.md", "comparison.csv", "comparison.json", "comparison.png", "report.html"]
    assert replaced == [(f".{name}.tmp", name) for name in names]


def test_what_is_no_comparison_has_no_report(tmp_path):
    with pytest.raises(ConfigurationError, match="not the directory of a comparison"):
        write_report(tmp_path)
