"""Small comparisons, whose runs are written rather than run."""

import json
from types import SimpleNamespace

import pytest
from records import client, record

from fedfuse import results
from fedfuse.compare.outcome import Measures, Outcome, run_directory
from fedfuse.compare.plan import Plan, Run
from fedfuse.summary import ClientFacts, write_summary


@pytest.fixture(scope="session")
def make_run():
    """Return a function that makes a run of a plan."""

    def make(method, seed=0, setting=(), num_rounds=2):
        folder = "-".join([method.replace(" ", "-"), *(word.partition("=")[2] for word in setting), f"seed={seed}"])
        return Run(folder, (f"strategy={method}", f"seed={seed}"), method, tuple(setting), seed, num_rounds, 1)

    return make


@pytest.fixture(scope="session")
def make_plan(make_run):
    """Return a function that plans methods over seeds and settings."""

    def make(methods=("local", "knfu"), seeds=(0, 1), settings=((),), notes=()):
        runs = [make_run(method, seed, setting) for seed in seeds for setting in settings for method in methods]
        return Plan(("strategy=knfu", "seed=0,1"), None, tuple(runs), tuple(notes))

    return make


@pytest.fixture(scope="session")
def measured():
    """Return a function that makes the outcome of a finished run."""

    def make(own_test, global_test=0.5, worst_10_percent=0.25, sent_bytes=1000, seconds=2.0):
        return Outcome(Measures(own_test, global_test, worst_10_percent, sent_bytes, seconds))

    return make


@pytest.fixture(scope="session")
def write_rounds():
    """Return a function that records rounds of a run as a run does, and its summary if it is to be finished."""

    def write(directory, run, numbers=(1, 2), accuracy=0.5, finished=True):
        path = run_directory(directory, run)
        path.mkdir(parents=True, exist_ok=True)
        results.write_text(path, "config.yaml", "seed: 0\n")
        for number in numbers:
            clients = [client(i, accuracy + number / 100, accuracy / 2 + number / 100) for i in range(2)]
            results.append_round(path, record(number, clients))
        if finished:
            write_summary(path, {}, [ClientFacts(i, "mlp", 10, None) for i in range(2)])
        return path

    return write


class ScriptedProcess:
    """A process that ends at the so-manieth look, and notes what is done to it."""

    def __init__(self, looks=1, code=0, stopped_code=130):
        self.looks, self.code, self.stopped_code = looks, code, stopped_code
        self.signals, self.waits, self.killed = [], 0, False

    def poll(self):
        self.looks -= 1
        return self.code if self.looks < 0 else None

    def send_signal(self, number):
        self.signals.append(number)

    def wait(self, timeout=None):
        self.waits += 1
        return self.stopped_code

    def kill(self):
        self.killed = True


@pytest.fixture(scope="session")
def scripted_process():
    """Return the class of processes that only do what a test says."""
    return ScriptedProcess


@pytest.fixture
def display():
    """A display that notes what it is told."""
    calls = SimpleNamespace(comparisons=[], rounds=[], ended=[])
    calls.compared = calls.comparisons.append
    calls.under_way = lambda rounds: calls.rounds.append(dict(rounds))
    calls.run_ended = lambda number, total, run, outcome: calls.ended.append((number, total, run.folder, outcome))
    return calls


@pytest.fixture(scope="session")
def read_json():
    """Return a function that reads a file of JSON."""
    return lambda path: json.loads(path.read_text(encoding="utf-8"))
