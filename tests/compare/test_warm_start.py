import signal
import subprocess
import time

import pytest

from fedfuse.compare.processes import claim
from fedfuse.compare.warm_start import prepare, start_warm
from fedfuse.composition import compose
from fedfuse.errors import ConfigurationError
from fedfuse.results import read_metrics
from fedfuse.simulate import simulate

WORDS = ["strategy=knfu", "num_clients=2", "num_rounds=2", "learn.epochs=1", "local_baseline=false"]


@pytest.fixture
def environment(monkeypatch):
    """Let `prepare` change the environment of this test only."""
    for name in ("PYTHONPATH", "PYTHONSAFEPATH", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")
    prepare()


@pytest.fixture
def start(environment, tmp_path):
    """Start a run with the words given; the directory is claimed while it goes on."""

    def start(*words):
        with claim(tmp_path) as lock:
            return start_warm(words, tmp_path / "log", lock)

    return start


def numbers(directory):
    """The metrics of a run, without its times."""
    return [{key: value for key, value in line.items() if key != "seconds"} for line in read_metrics(directory)]


def test_a_run_that_is_started_warm_has_the_results_of_any_other(start, tmp_path):
    process = start(*WORDS, f"output='{tmp_path / 'warm'}'")
    with pytest.raises(ConfigurationError, match="wait for them"), claim(tmp_path):
        pass  # the run holds on to what was claimed
    assert process.wait(timeout=120) == process.poll() == 0
    with claim(tmp_path):
        pass
    simulate(compose(WORDS), tmp_path / "cold")
    assert numbers(tmp_path / "warm") == numbers(tmp_path / "cold")
    log = (tmp_path / "log").read_text()
    assert log.startswith("knfu on digits")
    assert "round 2/2" in log


def test_a_mistake_ends_with_its_code_and_its_line_in_the_log(start, tmp_path):
    (tmp_path / "log").write_text("What was there before.\n")
    assert start("strategy=kfnu").wait(timeout=120) == 2
    before, error = (tmp_path / "log").read_text().splitlines()
    assert before == "What was there before."
    assert error.startswith("fedfuse: error: Unknown strategy 'kfnu'. Did you mean 'knfu'?")


def test_an_interrupted_run_says_how_to_go_on(start, tmp_path):
    process = start(*WORDS, "num_rounds=10000", f"output='{tmp_path / 'long'}'")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.01)
    deadline = time.monotonic() + 120
    while not (tmp_path / "long" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert f"To continue: fedfuse run resume={tmp_path / 'long'}" in (tmp_path / "log").read_text()
    process.send_signal(signal.SIGINT)  # nobody else may have its number by now


def test_a_run_can_be_ended_at_once(start, tmp_path):
    process = start(*WORDS, "num_rounds=10000", f"output='{tmp_path / 'long'}'")
    process.kill()
    assert process.wait(timeout=60) == -signal.SIGKILL
