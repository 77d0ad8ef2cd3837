import sys

import pytest

from fedfuse import __version__
from fedfuse.cli import COMMANDS, main
from fedfuse.errors import TooFewClientsError

pytestmark = pytest.mark.usefixtures("own_search_path")


def test_without_a_command_help_is_printed(capsys):
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("usage: fedfuse ")


def test_words_of_the_process_are_the_default(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fedfuse", "run", "sed=3"])
    assert main() == 2
    assert "Unknown key 'sed'" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"fedfuse {__version__}\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["rnu"], "Unknown command 'rnu'. Did you mean 'run'? Valid: "),
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
        (["run", "resume=.", "seed=3"], "resume=DIR goes with num_rounds=N and engine.workers=N only, not with seed."),
        (["run", "resume=.", "-m"], "resume=DIR goes with num_rounds=N and engine.workers=N only, not with -m."),
        (
            ["run", "resume=.", "--config-dir=."],
            "resume=DIR goes with num_rounds=N and engine.workers=N only, not with --config-dir.",
        ),
        (["run", "resume=.", "num_rounds=0"], "num_rounds must be a whole number of at least 1, not '0'."),
        (["run", "resume=.", "num_rounds=x"], "num_rounds must be a whole number of at least 1, not 'x'."),
        (["run", "resume=.", "engine.workers=0"], "engine.workers must be a whole number of at least 1, not '0'."),
    ],
)
def test_mistakes_end_with_code_2_and_one_line(words, expected, capsys, simulation):
    assert main(words) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"fedfuse: error: {expected}")
    assert output.err.count("\n") == 1
    assert output.out == ""
    assert not simulation


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["client", "--id"], "Argument --id: expected one argument. See fedfuse client --help."),
        (["server", "--insecure=yes"], "Argument --insecure: ignored explicit argument 'yes'. See fedfuse server --"),
        (["run", "--config-dir"], "Argument --config-dir: expected one argument. See fedfuse run --help."),
        (["report"], "The following arguments are required: DIR. See fedfuse report --help."),
        (["certs", "inti"], "Argument {init,node,show}: invalid choice: 'inti'"),
        (["certs", "init", "--host"], "Argument --host: expected at least one argument. See fedfuse certs init --"),
    ],
)
def test_mistakes_in_the_words_are_told_as_all_others_are(words, expected, capsys):
    assert main(words) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"fedfuse: error: {expected}")
    assert output.err.count("\n") == 1
    assert output.out == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: fedfuse {command} ")


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("    ") and line[4] != " "]
    assert listed == [*COMMANDS]


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
