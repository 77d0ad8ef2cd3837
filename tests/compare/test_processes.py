import os
import signal
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from fedfuse.compare import processes
from fedfuse.compare.plan import Plan
from fedfuse.compare.processes import claim, error_of, run_all, start_process
from fedfuse.composition import compose
from fedfuse.errors import ConfigurationError


@pytest.fixture(autouse=True)
def looks_at_once(monkeypatch):
    monkeypatch.setattr(processes, "SECONDS_BETWEEN_LOOKS", 0)


@pytest.fixture
def runs(make_run):
    return [make_run("knfu", seed) for seed in range(5)]


@pytest.fixture
def popen(monkeypatch):
    """Note how a process would be started."""
    calls = []

    def start(words, **options):
        calls.append(SimpleNamespace(words=words, **options))

    monkeypatch.setattr(subprocess, "Popen", start)
    return calls


@pytest.fixture
def start(make_run, popen, tmp_path):
    """Start a run of seed 3 on Ray, which gets a fresh process, and return how."""

    def start(config_dir=None, **changes):
        run = replace(make_run("knfu", 3), engine="ray")
        with claim(tmp_path) as lock:
            start_process(tmp_path, Plan((), config_dir, (run,), ()), lock, 1, run)
            popen[-1].lock = lock.fileno()
        return popen[-1]

    return start


def test_so_many_run_at_a_time_in_order(runs, scripted_process):
    under_way, most, ended = set(), [], []

    def start(run):
        under_way.add(run.seed)
        most.append(len(under_way))
        return scripted_process(looks=1 + run.seed % 2, code=run.seed)

    def end(run, code):
        under_way.remove(run.seed)
        ended.append((run.seed, code))

    run_all(runs, 2, start, end, lambda running: None)
    assert sorted(ended) == [(seed, seed) for seed in range(5)]  # one that fails does not keep others from running
    assert max(most) == 2
    assert most[:2] == [1, 2]


def test_runs_under_way_are_shown_at_every_look(runs, scripted_process):
    seen = []
    run_all(
        runs[:2], 1, lambda run: scripted_process(looks=2), lambda run, code: None, lambda now: seen.append(list(now))
    )
    assert seen == [[runs[0]], [runs[0]], [], [runs[1]], [runs[1]], []]


def interrupted(runs, started):
    def interrupt(under_way):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all(runs, 2, lambda run: started[run.seed], lambda run, code: None, interrupt)


def test_an_interrupt_is_passed_on_once_and_waited_for(runs, scripted_process):
    started = [scripted_process(looks=9) for _ in runs]
    interrupted(runs, started)
    assert [process.signals for process in started] == [[signal.SIGINT], [signal.SIGINT], [], [], []]
    assert [process.waits for process in started] == [1, 1, 0, 0, 0]
    assert not any(process.killed for process in started)


@pytest.mark.parametrize("reason", [KeyboardInterrupt, subprocess.TimeoutExpired("run", 30)])
def test_processes_that_do_not_stop_are_killed(runs, scripted_process, reason):
    started = [scripted_process(looks=9) for _ in runs]
    reasons = [reason]

    def wait(timeout=None):
        if reasons:
            raise reasons.pop()
        return -signal.SIGKILL

    started[0].wait = wait
    interrupted(runs, started)
    assert [process.killed for process in started] == [True, True, False, False, False]
    assert started[1].waits == 1


def test_a_fault_of_this_process_stops_the_runs_too(runs, scripted_process):
    started = scripted_process(looks=9)

    def full(under_way):
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        run_all(runs, 1, lambda run: started, lambda run, code: None, full)
    assert started.signals == [signal.SIGINT]


def test_a_new_run_gets_its_overrides_and_no_baseline_of_its_own(start, tmp_path):
    call = start(config_dir="/own")
    assert call.words[:5] == [sys.executable, "-P", "-m", "fedfuse", "run"]
    words = call.words[5:]
    assert words[:4] == ["--config-dir=/own", "strategy=knfu", "seed=3", "local_baseline=false"]
    assert compose(words[1:]).output == str(tmp_path / "runs" / "knfu-seed=3")


def test_a_run_is_a_process_with_its_own_threads_log_and_signals(start, tmp_path):
    call = start()
    assert call.env["OMP_NUM_THREADS"] == "1"
    assert call.env["PYTHONPATH"] == os.pathsep.join(sys.path)
    assert call.stdout.name == str(tmp_path / "logs" / "knfu-seed=3.log")
    assert (call.stderr, call.stdin) == (subprocess.STDOUT, subprocess.DEVNULL)
    assert (call.process_group, call.pass_fds) == (0, [call.lock])


def test_a_run_in_this_process_is_forked_off_one_that_is_warm(make_run, popen, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(processes, "start_warm", lambda words, log, lock: started.append((words, log, lock)))
    run = make_run("knfu", 3)
    with claim(tmp_path) as lock:
        start_process(tmp_path, Plan((), "/own", (run,), ()), lock, 1, run)
    ((words, log, held),) = started
    assert words[:3] == ["--config-dir=/own", "strategy=knfu", "seed=3"]
    assert (log, held) == (tmp_path / "logs" / "knfu-seed=3.log", lock)
    assert log.parent.is_dir()
    assert popen == []


@pytest.mark.parametrize(
    ("jobs", "changes", "given"),
    [
        (1, {}, []),
        (2, {}, ["engine.workers=1"]),
        (2, {"engine": "ray"}, []),
        (2, {"overrides": ("strategy=knfu", "engine.workers=3")}, ["engine.workers=3"]),
    ],
)
def test_runs_side_by_side_do_not_take_all_cores_each(make_run, tmp_path, jobs, changes, given):
    run = replace(make_run("knfu", 3), **changes)
    words = processes.words_of(tmp_path, Plan((), None, (run,), ()), jobs, run)
    assert [word for word in words if word.startswith("engine.workers")] == given


def test_half_a_run_is_resumed(start, make_run, write_rounds, tmp_path):
    path = write_rounds(tmp_path, make_run("knfu", 3), numbers=(1,), finished=False)
    assert start(config_dir="/own").words[5:] == [f"resume={path}"]


def test_what_a_run_left_that_never_began_is_cleared_away(start, tmp_path):
    path = tmp_path / "runs" / "knfu-seed=3"
    path.mkdir(parents=True)
    (path / ".config.yaml.tmp").write_text("")
    assert start().words[-1] == f"output='{path}'"
    assert not path.exists()


@pytest.mark.parametrize(
    ("log", "error"),
    [
        ("round 1\nfedfuse: error: No such file.\n\n", "No such file."),
        ("Stopped.\nfedfuse: error: No.\nStopped. Continue with: fedfuse run\n", "No."),
        ("Traceback\n  File\nValueError: x\x1b[31m\n", "ValueError: x [31m"),
        ("y" * 1000, "y" * 300),
        ("", "exit code 1"),
        (None, "exit code 1"),
    ],
)
def test_the_last_line_of_the_log_says_why_a_run_failed(log, error, tmp_path):
    if log is not None:
        (tmp_path / "log").write_text(log)
    assert error_of(1, tmp_path / "log") == error


def test_a_killed_run_names_its_signal(tmp_path):
    assert error_of(-signal.SIGKILL, tmp_path / "log") == "ended by SIGKILL"


def test_a_directory_has_one_comparison_at_work_at_a_time(tmp_path):
    refused = pytest.raises(ConfigurationError, match="Another fedfuse compare is at work")
    with claim(tmp_path), refused, claim(tmp_path):
        pass
    with claim(tmp_path):
        pass


def test_a_run_that_goes_on_alone_keeps_its_directory_claimed(tmp_path):
    with claim(tmp_path) as lock:
        child = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=[lock.fileno()]
        )
    with child, pytest.raises(ConfigurationError, match="wait for them"), claim(tmp_path):
        pass
    with claim(tmp_path):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_taken_as_an_interrupt_once_what_is_being_done_is_done(number, runs, scripted_process):
    before = signal.signal(number, signal.SIG_DFL)  # the tests themselves may have been started without it
    started, done = scripted_process(looks=9), []

    def watch(under_way):
        if not done:
            signal.raise_signal(number)
        done.append(under_way)

    try:
        with pytest.raises(KeyboardInterrupt):
            run_all(runs, 1, lambda run: started, lambda run, code: None, watch)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert done == [(runs[0],)]
    assert started.signals == [signal.SIGINT]


def test_a_second_signal_counts_at_once(runs, scripted_process):
    started, done = scripted_process(looks=9), []

    def watch(under_way):
        signal.raise_signal(signal.SIGTERM)
        done.append("once")
        signal.raise_signal(signal.SIGTERM)
        done.append("twice")

    with pytest.raises(KeyboardInterrupt):
        run_all(runs, 1, lambda run: started, lambda run, code: None, watch)
    assert done == ["once"]


def test_an_ignored_hang_up_stays_ignored(runs, scripted_process):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ended = []
    try:
        run_all(
            runs,
            1,
            lambda run: scripted_process(looks=1),
            lambda run, code: ended.append(run),
            lambda under_way: signal.raise_signal(signal.SIGHUP),
        )
    finally:
        signal.signal(signal.SIGHUP, before)
    assert ended == runs
