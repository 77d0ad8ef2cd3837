"""A whole deployment on this machine, by the commands that a user types: TLS, keys, three clients, one killed."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fedfuse import results
from fedfuse.cli import main
from fedfuse.composition import compose
from fedfuse.deploy import flower
from fedfuse.engine.local_grid import LocalGrid
from fedfuse.messages import Request
from fedfuse.server_app import Service, serve
from fedfuse.simulate import assemble

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 150  # seconds for any one step, on a machine that has much else to do
IMPATIENCE = 25  # seconds after which the server gives the killed client up
KILLED = 2
BASE = ["num_clients=3", "learn.epochs=1", "absorb.epochs=1", "transfer.size=60", "model=[mlp_small,cnn_small]"]


class Commands:
    """Commands of fedfuse that run at the same time, each in a session of its own that can be killed as a whole."""

    def __init__(self, directory):
        self.directory = directory
        self.running = {}
        paths = [str(ROOT), str(ROOT / "tests")]
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HOME": str(directory / "home")}

    def start(self, name, *words):
        with (self.directory / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-P", "-m", "fedfuse", *words],
                cwd=self.directory,
                env=self.environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def kill(self, name):
        process = self.running.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)

    def log(self, name):
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def wait_until(self, what, holds, while_running="server"):
        deadline = time.monotonic() + PATIENCE
        while not holds():
            assert self.running[while_running].poll() is None, f"no {what}:\n{self.log(while_running)}"
            assert time.monotonic() < deadline, f"no {what} in time:\n{self.log(while_running)}"
            time.sleep(0.05)

    def end_of(self, name):
        code = self.running[name].wait(PATIENCE)
        self.kill(name)  # whatever it may have left behind
        return code


@pytest.fixture
def commands(tmp_path):
    started = Commands(tmp_path)
    yield started
    for name in list(started.running):
        started.kill(name)
    assert processes_of(tmp_path) == []


def processes_of(directory):
    """Find processes that were started with this directory in their environment or in their words."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            if str(directory).encode() in words and int(process.name) != os.getpid():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


class WithoutOneRound(LocalGrid):
    """A grid on which the killed client never hears of round 2."""

    def send_and_receive(self, messages, *, timeout=None):
        heard = [
            message
            for message in messages
            if message.metadata.dst_node_id != KILLED + 1
            or "request" not in message.content
            or Request.from_record(message.content).round != 2
        ]
        return super().send_and_receive(heard, timeout=timeout)


def simulated(directory):
    """Run the same federation in this process."""
    recorded = directory / "simulated"
    recorded.mkdir()
    for number in (1, 2, 3):
        (recorded / f"begin-{number}").touch()
    configuration = compose([*BASE, "num_rounds=3", "engine.runner=sequential", *strategy(recorded)])
    simulation = assemble(configuration)
    grid = WithoutOneRound(simulation.clients, simulation.settings, "sequential")
    serve(Service(configuration, grid, simulation.strategy, simulation.server, recorded, simulation.promise))
    return recorded


def strategy(recorded):
    return ["strategy=custom", "strategy._target_=recording.Recording", f"++strategy.directory={recorded}"]


def same(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return first == second


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
@pytest.mark.skipif(shutil.which("git") is None, reason="the app is built from a clone, as git lists it")
def test_three_clients_with_keys_of_which_one_is_killed_give_bit_by_bit_what_the_simulator_gives(
    commands, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main(["export", "parts", *BASE]) == 0
    assert main(["certs", "init"]) == 0
    for name in "abc":
        assert main(["certs", "node", name]) == 0
    port, recorded, out = flower.free_port(), tmp_path / "recorded", tmp_path / "out"
    recorded.mkdir()

    def start_server(name, *words):
        commands.start(name, "server", *words, f"--port={port}", f"--app={ROOT}")
        commands.wait_until("SuperLink", lambda: "$ flwr run" in commands.log(name), name)

    def start_client(client_id):
        commands.start(
            f"client-{client_id}",
            "client",
            f"--id={client_id}",
            f"--data=parts/client-{client_id}.npz",
            "--transfer=parts/transfer.npz",
            f"--server=127.0.0.1:{port}",
            "--authority=certs/ca.crt",
            f"--key=certs/nodes/{'abc'[client_id]}",
        )

    # Two rounds; one client is killed after the first.
    settings = [*BASE, "num_rounds=2", f"engine.timeout={PATIENCE}", "transfer.path=parts/transfer.npz", "output=out"]
    impatience = ["++strategy.impatient_round=2", f"++strategy.seconds={IMPATIENCE}"]
    start_server("server", *settings, *strategy(recorded), *impatience)
    for client_id in range(3):
        start_client(client_id)
    (recorded / "begin-1").touch()
    commands.wait_until("first round", lambda: len(results.read_metrics(out)) == 1)
    commands.kill(f"client-{KILLED}")
    (recorded / "begin-2").touch()
    assert commands.end_of("server") == 0, commands.log("server")

    # The client is started again, and the server goes on from its checkpoint.
    start_client(KILLED)
    (recorded / "begin-3").touch()
    start_server("resumed", "resume=out", "num_rounds=3")
    assert commands.end_of("resumed") == 0, commands.log("resumed")

    lines = results.read_metrics(out)
    left_out = [(one["client_id"], one["phase"], one["reason"]) for line in lines for one in line["left_out"]]
    assert left_out == [(KILLED, "share", "gave no reply in time")]
    assert [line["participants"] for line in lines] == [3, 2, 3]
    # As many messages went out as there are clients, and each went to another one.
    assert [torch.load(recorded / f"sent-{number}.pt") for number in (1, 2, 3)] == [3, 3, 3]
    asked = [commands.log(f"client-{client_id}").count("Receiving: train.share") for client_id in range(3)]
    assert asked == [3, 3, 2]

    expected = simulated(tmp_path)
    for number in (1, 2, 3):
        for name in (f"knowledge-{number}.pt", f"fused-{number}.pt"):
            assert same(torch.load(recorded / name), torch.load(expected / name)), name
    accuracies = [[line[f"{kind}_mean"] for kind in ("personal", "general", "validation")] for line in lines]
    assert accuracies == [
        [line[f"{kind}_mean"] for kind in ("personal", "general", "validation")]
        for line in results.read_metrics(expected)
    ]
    assert (out / "report.html").is_file()
