import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

import fedfuse
from fedfuse import catalogue, cli
from fedfuse.cli import main
from fedfuse.commands import run

pytestmark = pytest.mark.usefixtures("own_search_path")


@pytest.fixture
def processes(monkeypatch):
    """Note the words of each process instead of starting it, and end them with these exit codes."""
    started, codes = [], []

    def run_process(words):
        started.append(list(words))
        return codes.pop(0) if codes else 0

    monkeypatch.setattr(run, "_run_process", run_process)
    return SimpleNamespace(started=started, codes=codes)


def printed_help(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_help_of_run_shows_names_examples_and_keys_with_defaults(capsys):
    text = printed_help(capsys, "run", "--help")
    (names,) = re.findall(r"^  strategy +(.*?)\n  objective", text, re.MULTILINE | re.DOTALL)
    assert re.split(r",\s+", names) == catalogue.names("strategy", catalogue.folders())
    (policies,) = re.findall(r"^  transfer/policy +(.*)$", text, re.MULTILINE)
    assert policies.split(", ") == catalogue.names("transfer/policy", catalogue.folders())
    for example in (
        "fedfuse run -m strategy=knfu,local",
        "resume=my_run",
        "strategy._target_=my_package.MyStrategy",
    ):
        assert example in text
    assert "num_rounds: 20 # rounds of share, fuse and absorb" in text
    assert "defaults:\n  - " not in text


def test_examples_of_the_help_compose(simulation, processes, capsys):
    lines = [line.split("fedfuse ")[1] for line in run.RUN_EXAMPLES.splitlines() if "fedfuse " in line]
    for line in lines:
        command = re.split(r"\s{3,}", line)[0]
        if "resume=" in command:
            Path("my_run").mkdir(exist_ok=True)
        words = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", command)]
        assert main(words) == 0, capsys.readouterr().err
    assert [call[0] for call in simulation].count("simulate") == len(lines) - 3
    assert len(processes.started) == 6


def test_run_simulates_the_composed_configuration(simulation):
    assert main(["run", "seed=3", "strategy=local"]) == 0
    ((kind, configuration),) = simulation
    assert kind == "simulate"
    assert (configuration.seed, configuration.strategy.name) == (3, "local")


def test_overrides_may_stand_on_both_sides_of_an_option(simulation, tmp_path):
    (tmp_path / "own" / "strategy").mkdir(parents=True)
    (tmp_path / "own" / "strategy" / "mine.yaml").write_text("_target_: own.Mine\n")
    assert main(["run", "seed=3", "--config-dir", "own", "seed=4", "strategy=mine"]) == 0
    configuration = simulation[0][1]
    assert (configuration.seed, configuration.strategy.target) == (4, "own.Mine")


def test_resume_continues_in_the_directory(simulation, tmp_path):
    (tmp_path / "run=1 (a)").mkdir()
    assert main(["run", "resume=run=1 (a)"]) == 0
    assert main(["run", "num_rounds=40", "resume=run=1 (a)"]) == 0
    assert main(["run", "resume=run=1 (a)", "engine.workers=2"]) == 0
    assert simulation == [("resume", Path("run=1 (a)"), *numbers) for numbers in ((None, None), (40, None), (None, 2))]


def test_multirun_runs_every_combination_in_its_own_process(processes, capsys):
    assert main(["run", "seed=0,1", "-m", "strategy=knfu,local"]) == 0
    assert processes.started == [
        ["seed=0", "strategy=knfu"],
        ["seed=0", "strategy=local"],
        ["seed=1", "strategy=knfu"],
        ["seed=1", "strategy=local"],
    ]
    assert capsys.readouterr().out.splitlines()[1] == "[2/4] fedfuse run seed=0 strategy=local"


def test_multirun_goes_on_after_a_failure_and_returns_the_first_code(processes):
    processes.codes += [0, 3, 1]
    assert main(["run", "-m", "seed=0,1,2,3"]) == 3
    assert len(processes.started) == 4


def test_multirun_starts_nothing_when_one_combination_is_wrong(processes, capsys):
    assert main(["run", "-m", "strategy=knfu,local,fedvag"]) == 2
    assert "Did you mean 'fedavg'?" in capsys.readouterr().err
    assert not processes.started


def test_multirun_numbers_the_directories_and_passes_the_users_own_on(processes, tmp_path):
    (tmp_path / "own").mkdir()
    assert main(["run", "-m", "--config-dir", "own", "output=my run", "seed=0,1"]) == 0
    assert processes.started == [
        ["--config-dir=own", "seed=0", "output='my run/0'"],
        ["--config-dir=own", "seed=1", "output='my run/1'"],
    ]


def test_process_of_a_combination_finds_the_same_modules_and_returns_its_code(tmp_path, monkeypatch, capfd):
    (tmp_path / "datetime.py").write_text("raise RuntimeError('not this one')\n")
    monkeypatch.syspath_prepend(Path(fedfuse.__file__).parent.parent)
    cli._search_working_directory_last()
    assert run._run_process(["seed=abc"]) == 2
    assert capfd.readouterr().err == ("fedfuse: error: seed must be a whole number of at least 0, not 'abc'.\n")


def test_process_that_was_killed_gives_the_code_of_a_shell(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda command, env: SimpleNamespace(wait=lambda: -9))
    assert run._run_process([]) == 137


def test_interrupt_waits_for_the_process_and_stops_the_others(monkeypatch):
    waits = []

    def wait():
        waits.append(None)
        if len(waits) == 1:
            raise KeyboardInterrupt
        return 130

    monkeypatch.setattr(subprocess, "Popen", lambda command, env: SimpleNamespace(wait=wait))
    assert main(["run", "-m", "seed=0,1"]) == 130
    assert len(waits) == 2
