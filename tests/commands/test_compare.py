import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import fedfuse
from fedfuse.cli import main
from fedfuse.commands import compare
from fedfuse.compare import processes
from fedfuse.compare.outcome import run_directory
from fedfuse.compare.plan import read_plan
from fedfuse.metrics import RoundRecord
from fedfuse.results import append_round
from fedfuse.summary import read_summary, write_summary

pytestmark = pytest.mark.usefixtures("own_search_path")

TINY = ["num_clients=3", "num_rounds=2", "learn.epochs=1", "transfer.size=40", "engine.runner=sequential"]


class Finished:
    """A process that is over, with this exit code."""

    def __init__(self, code):
        self.code = code

    def poll(self):
        return self.code

    def wait(self, timeout=None):
        return self.code

    def send_signal(self, number):
        pass


@pytest.fixture
def started(monkeypatch):
    """Let every run end at once, with nothing but its rounds; note what was started, and what is to fail."""
    figure = type("Figure", (), {"savefig": lambda self, file, **options: file.write(b"PNG")})
    monkeypatch.setattr("fedfuse.compare.report.draw_comparison", lambda comparison: figure())
    runs = []

    def start(directory, plan, lock, jobs, run):
        runs.append(run.folder)
        if run.folder in start.failing:
            if isinstance(start.failing[run.folder], BaseException):
                raise start.failing.pop(run.folder)
            return Finished(start.failing[run.folder])
        path = run_directory(directory, run)
        for number in range(1, run.num_rounds + 1):
            append_round(path, RoundRecord(number, (), (), 10, 20, {"round": 0.5}, None, ()))
        write_summary(path, {}, [])
        return Finished(0)

    start.failing = {}
    start.runs = runs
    monkeypatch.setattr(processes, "start_process", start)
    return start


def error_of(capsys):
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("fedfuse: error: ")


def test_every_combination_is_run_and_compared(started, capsys):
    assert main(["compare", "strategy=fedmd,knfu", "seed=0,1", "output=mine", "num_rounds=2"]) == 0
    assert started.runs == [f"{method}-seed={seed}" for seed in (0, 1) for method in ("local", "fedmd", "knfu")]
    text = capsys.readouterr().out
    assert text.startswith("6 runs, 1 at a time, in mine\nstrategy=local was added")
    assert "[6/6] knfu-seed=1" in text
    assert re.search(r"^knfu +2/2 ", text, re.MULTILINE)
    assert text.endswith("Files: mine\n")
    assert {path.name for path in Path("mine").glob("comparison.*")} == {
        f"comparison.{ending}" for ending in ("md", "csv", "json", "png")
    }


def test_a_directory_is_made_where_none_is_named(started):
    assert main(["compare", "strategy=local"]) == 0
    (directory,) = Path("outputs/compare").iterdir()
    assert read_plan(directory).words == ("strategy=local",)


def test_a_failure_is_said_and_tried_again(started, capsys):
    started.failing["knfu-seed=0"] = 3
    assert main(["compare", "seed=0,1", "output=mine"]) == 1
    text = capsys.readouterr().out
    assert "knfu failed: exit code 3" in text
    assert text.endswith("To try again what failed: fedfuse compare resume=mine\n")
    started.failing.clear()
    started.runs.clear()
    assert main(["compare", "resume=mine", "jobs=2"]) == 0
    assert started.runs == ["knfu-seed=0"]
    assert capsys.readouterr().out.startswith("4 runs, of which 3 have finished, 2 at a time, in mine\n")


def test_the_same_command_continues_in_its_directory(started):
    words = ["compare", "seed=0,1", "output='my runs'"]
    assert main(words) == main([*words, "jobs=2"]) == 0
    assert len(started.runs) == 4


def test_an_interrupt_leaves_the_table_and_says_how_to_continue(started, capsys):
    started.failing["local-seed=1"] = KeyboardInterrupt()
    assert main(["compare", "seed=0,1", "output='my runs'"]) == 130
    printed = capsys.readouterr()
    assert re.search(r"^knfu +1/2 ", printed.out, re.MULTILINE)
    assert printed.out.endswith("Interrupted. To continue: fedfuse compare 'resume=my runs'\n")
    assert main(["compare", "resume=my runs"]) == 0
    assert started.runs == ["local-seed=0", "knfu-seed=0", "local-seed=1", "local-seed=1", "knfu-seed=1"]


def test_parts_of_ones_own_are_found_again_from_anywhere(started, tmp_path, monkeypatch):
    (tmp_path / "own" / "strategy").mkdir(parents=True)
    (tmp_path / "own" / "strategy" / "mine.yaml").write_text("_target_: own.Mine\n")
    assert main(["compare", "--config-dir", "own", "strategy=mine", "output=mine"]) == 0
    assert read_plan(Path("mine")).config_dir == str(tmp_path / "own")
    assert started.runs == ["local-seed=0", "mine-seed=0"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["strategy=knfu,fedvag"], "Did you mean 'fedavg'?"),
        (["sed=0,1"], "Did you mean 'seed'?"),
        (["jobs=0"], "jobs must be a whole number of at least 1, not '0'."),
        (["jobs=x"], "jobs must be a whole number of at least 1, not 'x'."),
        (["jobs=1,2"], "jobs must be a whole number of at least 1, not '1,2'."),
        (["--jobs=2"], "Unknown option '--jobs=2'"),
        (["-m", "seed=0,1"], "Unknown option '-m'"),
        (["resume=nothing"], "No plan.json in nothing: it is not the directory of a comparison."),
        (["resume=run"], "It is a run: fedfuse run resume=run"),
        (["resume=nothing", "seed=0"], "resume=DIR goes with jobs=N only, not with seed=0."),
        (["resume=nothing", "--config-dir=own"], "resume=DIR goes with jobs=N only, not with --config-dir."),
        (["output=run"], "output=run exists and holds no comparison: name another directory."),
        (["output=a,b"], "output=a,b names several directories: a comparison has one."),
        (["seed=0,0"], "Two combinations are the same run"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_run(started, words, message, capsys):
    Path("run").mkdir()
    Path("run/config.yaml").write_text("")
    assert main(["compare", *words]) == 2
    assert message in error_of(capsys)
    assert not started.runs
    assert [path.name for path in Path().iterdir()] == ["run"]


def test_a_directory_of_other_words_is_left_alone(started, capsys):
    assert main(["compare", "seed=0,1", "output=mine"]) == 0
    capsys.readouterr()
    assert main(["compare", "seed=0,1,2", "output=mine"]) == 2
    assert error_of(capsys) == (
        "output=mine holds another comparison, of seed=0,1. Use resume=mine to continue that one, or name another "
        "directory."
    )


def test_examples_of_the_help_compose(started, capsys):
    lines = [line.split("fedfuse ")[1] for line in compare.EXAMPLES.splitlines() if line.startswith("  fedfuse ")]
    for line in lines:
        words = re.split(r"\s{3,}", line)[0].split()
        one_seed = [re.sub(r"^seed=.*", "seed=2", word) for word in words]  # composing takes most of the time
        assert main(one_seed) == 0, capsys.readouterr().err
    assert len(lines) == 6


def command(*words):
    """Start the command as a user does, where Ctrl-C reaches it."""
    environment = os.environ | {"PYTHONPATH": str(Path(fedfuse.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "fedfuse", "compare", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def test_a_real_comparison_is_interrupted_and_continued():
    """Two strategies, two seeds, two at a time: stopped after the first run has ended, then finished."""
    process = command("strategy=local,fedmd", "seed=0,1", "jobs=2", "output=mine", *TINY)
    with process:
        assert process.stdout.readline() == "4 runs, 2 at a time, in mine\n"
        assert process.stdout.readline().startswith("[1/4] ")
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130, rest
    assert "Interrupted. To continue: fedfuse compare resume=mine" in rest
    finished = {path.parent: path.stat().st_mtime_ns for path in Path("mine/runs").glob("*/summary.json")}
    assert 1 <= len(finished) < 4

    with command("resume=mine", "jobs=2") as process:
        text = process.stdout.read()
    assert process.returncode == 0, text
    assert {path: (path / "summary.json").stat().st_mtime_ns for path in finished} == finished
    comparison = json.loads(Path("mine/comparison.json").read_text())
    local, fedmd = comparison["settings"][0]["methods"]
    assert (local["num_finished"], fedmd["num_finished"]) == (2, 2)
    assert fedmd["estimates"]["sent_bytes"]["mean"] > local["estimates"]["sent_bytes"]["mean"]
    for seed in (0, 1):
        runs = [Path(f"mine/runs/{method}-seed={seed}") for method in ("local", "fedmd")]
        counts = [[client["label_counts"] for client in read_summary(run)["clients"]] for run in runs]
        assert counts[0] == counts[1]
        assert not (runs[1] / "local_only").exists()
    values = [read_summary(Path(f"mine/runs/local-seed={seed}"))["metrics"]["personal_mean"] for seed in (0, 1)]
    mean = sum(value["mean_of_last_five"] for value in values) / 2
    assert local["estimates"]["own_test"]["mean"] == pytest.approx(mean)
