from types import SimpleNamespace

import pytest
import records

from fedfuse.composition import compose
from fedfuse.conclusion import conclude
from fedfuse.configuration import to_yaml
from fedfuse.results import LOCAL_ONLY, append_round, write_text
from fedfuse.summary import ClientFacts, read_summary
from fedfuse.tracking.tracker import Trackers

OVERRIDES = ["strategy=fedmd", "seed=5", "num_clients=2", "model=[mlp_small,cnn_small]", "privacy=[swing,noise]"]
CLASS_NAMES = ("cat", "dog")
FIGURES = ["accuracy_by_client.png", "accuracy_by_round.png", "label_distribution.png", "relevance.png"]
FACTS = [ClientFacts(0, "mlp_small", 30, (10, 20)), ClientFacts(1, "cnn_small", 12, (12, 0))]


class Listener:
    """Notes the ends that it is told of, and the files of the run that were there by then."""

    def __init__(self, directory):
        self.ends = []
        self._directory = directory

    def end(self, summary, figures):
        files = {str(path.relative_to(self._directory)) for path in self._directory.rglob("*") if path.is_file()}
        self.ends.append(SimpleNamespace(summary=summary, figures=figures, files=files))


@pytest.fixture(scope="module")
def concluded(tmp_path_factory):
    """A run of three rounds and its baseline, concluded."""
    directory = tmp_path_factory.mktemp("run")
    configuration = compose(OVERRIDES)
    write_text(directory, "config.yaml", to_yaml(configuration))
    for record in records.rounds([1, 2, 3]):
        append_round(directory, record)
    append_round(directory / LOCAL_ONLY, records.rounds([1])[0])
    listeners, notes = [Listener(directory), Listener(directory)], []
    trackers = Trackers(listeners, notes.append)
    summary = conclude(directory, configuration, FACTS, CLASS_NAMES, trackers)
    trackers.end(None)
    return SimpleNamespace(directory=directory, summary=summary, listeners=listeners, notes=notes)


def test_summary_is_written_and_returned(concluded):
    assert concluded.summary == read_summary(concluded.directory)
    assert concluded.summary["num_rounds"] == 3
    assert concluded.summary["class_names"] == ["cat", "dog"]
    assert concluded.summary["metrics"]["personal_mean"]["last"] == pytest.approx(0.3)
    assert concluded.summary["spread"]["local_only"]["personal"]["mean"] == pytest.approx(0.1)
    assert [(client["model"], client["num_examples"]) for client in concluded.summary["clients"]] == [
        ("mlp_small", 30),
        ("cnn_small", 12),
    ]


def test_summary_names_what_ran(concluded):
    assert concluded.summary["configuration"] == {
        "strategy": "fedmd",
        "data": "digits",
        "partition": "dirichlet",
        "partition_arguments": compose(OVERRIDES).partition.arguments,
        "model": ["mlp_small", "cnn_small"],
        "privacy": ["swing", "noise"],
        "num_clients": 2,
        "seed": 5,
    }


def test_every_figure_that_there_are_numbers_for_is_drawn(concluded):
    assert sorted(path.name for path in (concluded.directory / "figures").iterdir()) == FIGURES


def test_report_tells_of_the_finished_run(concluded):
    report = (concluded.directory / "report.html").read_text()
    assert "<h1>fedmd on digits</h1>" in report
    assert "cnn_small" in report
    assert "dog" in report


def test_every_tracker_is_told_once_when_all_files_are_there(concluded):
    for listener in concluded.listeners:
        (told,) = listener.ends
        assert told.summary == concluded.summary
        assert sorted(told.figures) == [concluded.directory / "figures" / name for name in FIGURES]
        assert told.files >= {"summary.json", "report.html", *(f"figures/{name}" for name in FIGURES)}
    assert concluded.notes == []


def test_of_a_run_with_unknown_clients_what_is_known_is_concluded(tmp_path):
    configuration = compose(["strategy=local", "num_clients=2"])
    write_text(tmp_path, "config.yaml", to_yaml(configuration))
    append_round(tmp_path, records.record(1, [records.client(0, 0.5), records.client(1, 0.75)]))
    facts = [ClientFacts(client_id, "mlp_small", None, None) for client_id in range(2)]
    summary = conclude(tmp_path, configuration, facts, CLASS_NAMES, Trackers([], print))
    assert [client["gain"] for client in summary["clients"]] == [None, None]
    assert [client["personal_accuracy"] for client in summary["clients"]] == [0.5, 0.75]
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["accuracy_by_round.png"]
    assert "<h1>local on digits</h1>" in (tmp_path / "report.html").read_text()
