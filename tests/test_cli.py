import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import fedfuse
from fedfuse import cli
from fedfuse.cli import main
from fedfuse.errors import TooFewClientsError


@pytest.fixture(autouse=True)
def search_path(monkeypatch, tmp_path):
    """Run in a directory of its own, and forget what the command adds to the search path for modules."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def simulation(monkeypatch):
    """Put a simulation in place that only notes how it was called."""
    calls = []
    module = SimpleNamespace(
        simulate=lambda configuration: calls.append(("simulate", configuration)),
        resume=lambda directory, num_rounds: calls.append(("resume", directory, num_rounds)),
    )
    monkeypatch.setitem(sys.modules, "fedfuse.simulate", module)
    return calls


@pytest.fixture
def processes(monkeypatch):
    """Note the words of each process instead of starting it, and end them with these exit codes."""
    started, codes = [], []

    def run_process(words):
        started.append(list(words))
        return codes.pop(0) if codes else 0

    monkeypatch.setattr(cli, "_run_process", run_process)
    return SimpleNamespace(started=started, codes=codes)


def printed_help(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_without_a_command_help_is_printed(capsys):
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("usage: fedfuse ")


def test_words_of_the_process_are_the_default(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fedfuse", "run", "sed=3"])
    assert main() == 2
    assert "Unknown key 'sed'" in capsys.readouterr().err


def test_version(capsys):
    assert printed_help(capsys, "--version") == f"fedfuse {fedfuse.__version__}\n"


def test_help_of_run_shows_names_examples_and_keys_with_defaults(capsys):
    text = printed_help(capsys, "run", "--help")
    assert re.search(r"^  strategy +custom, fedavg, fedmd, fedproto, knfu, local$", text, re.MULTILINE)
    assert re.search(r"^  transfer/policy +all, random_subset$", text, re.MULTILINE)
    for example in (
        "fedfuse run -m strategy=knfu,local",
        "resume=my_run",
        "strategy._target_=my_package.MyStrategy",
    ):
        assert example in text
    assert "num_rounds: 20 # rounds of share, fuse and absorb" in text
    assert "defaults:\n  - " not in text


def test_examples_of_the_help_compose(simulation, processes, capsys):
    lines = [line.split("fedfuse ")[1] for line in cli.RUN_EXAMPLES.splitlines() if "fedfuse " in line]
    for line in lines:
        command = re.split(r"\s{3,}", line)[0]
        if "resume=" in command:
            Path("my_run").mkdir()
        words = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", command)]
        assert main(words) == 0, capsys.readouterr().err
    assert [call[0] for call in simulation].count("simulate") == len(lines) - 2
    assert len(processes.started) == 6


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["rnu"], "Unknown command 'rnu'. Did you mean 'run'? Valid: list, run."),
        (["--vresion"], "Unknown option '--vresion'. Did you mean '--version'?"),
        (["run", "--multi-run"], "Unknown option '--multi-run'. Did you mean '--multirun'?"),
        (["list", "strategy"], "Unknown table 'strategy'. Did you mean 'strategies'?"),
        (["list", "data", "models"], "Unknown argument 'models'."),
        (["list", "--config-dir", "nowhere"], "The configuration directory 'nowhere' does not exist."),
        (["run", "--config-dir", "nowhere"], "The configuration directory 'nowhere' does not exist."),
        (["run", "seed=abc"], "seed must be a whole number of at least 0, not 'abc'."),
        (["run", "seed=1,2"], "seed=1,2 gives several values: add -m to run each"),
        (["run", "-m", "seed=interval(0,1)"], "seed=interval(0,1) cannot be listed"),
        (["run", "resume=nowhere"], "There is no run to resume in 'nowhere': no such directory."),
        (["run", "resume=.", "seed=3"], "resume=DIR goes with num_rounds=N only, not with seed."),
        (["run", "resume=.", "-m"], "resume=DIR goes with num_rounds=N only, not with -m."),
        (
            ["run", "resume=.", "--config-dir=."],
            "resume=DIR goes with num_rounds=N only, not with --config-dir.",
        ),
        (["run", "resume=.", "num_rounds=0"], "num_rounds must be a whole number of at least 1, not '0'."),
        (["run", "resume=.", "num_rounds=x"], "num_rounds must be a whole number of at least 1, not 'x'."),
    ],
)
def test_mistakes_end_with_code_2_and_one_line(words, expected, capsys, simulation, processes):
    assert main(words) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"fedfuse: error: {expected}")
    assert output.err.count("\n") == 1
    assert output.out == ""
    assert not simulation
    assert not processes.started


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
    assert simulation == [("resume", Path("run=1 (a)"), None), ("resume", Path("run=1 (a)"), 40)]


def test_error_of_a_run_gives_its_exit_code(simulation, monkeypatch, capsys):
    def fail(configuration):
        raise TooFewClientsError("Only 1 of 4 clients replied.")

    monkeypatch.setattr(sys.modules["fedfuse.simulate"], "simulate", fail)
    assert main(["run"]) == 1
    assert capsys.readouterr().err == "fedfuse: error: Only 1 of 4 clients replied.\n"


def test_interrupt_ends_with_code_130(simulation, monkeypatch, capsys):
    def interrupt(configuration):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["fedfuse.simulate"], "simulate", interrupt)
    assert main(["run"]) == 130
    assert capsys.readouterr().err == "fedfuse: interrupted\n"


def test_working_directory_is_searched_for_modules_last(simulation, tmp_path):
    sys.path[:0] = ["", str(tmp_path)]
    before = [path for path in sys.path if path not in ("", str(tmp_path))]
    assert main(["run"]) == 0
    assert sys.path == [*before, str(tmp_path)]


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
    assert cli._run_process(["seed=abc"]) == 2
    assert capfd.readouterr().err == ("fedfuse: error: seed must be a whole number of at least 0, not 'abc'.\n")


def test_process_that_was_killed_gives_the_code_of_a_shell(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda command, env: SimpleNamespace(wait=lambda: -9))
    assert cli._run_process([]) == 137


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


def test_list_shows_every_table(capsys):
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for table in cli.TABLES:
        assert re.search(rf"^{table} \(", text, re.MULTILINE)
    assert re.search(r"^  kd +Knowledge distillation: ", text, re.MULTILINE)
    assert re.search(r"^  soft_labels +Class probabilities ", text, re.MULTILINE)
    assert re.search(r"^  random_subset +A random share of the transfer set", text, re.MULTILINE)
    assert re.search(r"^  custom +A strategy of your own: strategy=custom ", text, re.MULTILINE)


def test_list_of_one_table_shows_the_users_own_parts(capsys, tmp_path):
    (tmp_path / "own" / "partition").mkdir(parents=True)
    (tmp_path / "own" / "partition" / "by_day.yaml").write_text("# Each client one day.\n_target_: own.by_day\n")
    assert main(["list", "partitions", "--config-dir", "own"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "partitions (partition=NAME)"
    assert lines[1] == "  by_day     Each client one day."
    assert [line.split()[0] for line in lines[1:-1]] == ["by_day", "dirichlet", "iid"]
