import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from flwr.common.config import parse_config_args

from fedfuse.cli import main
from fedfuse.commands import client
from fedfuse.data.federation import Shared, TransferSet
from fedfuse.data.files import write_client, write_shared
from fedfuse.data.samples import Samples
from fedfuse.deploy import flower

pytestmark = pytest.mark.usefixtures("own_search_path")

SECURE = ("--authority=ca.crt", "--key=nodes/clinic-a")
GOOD = ("--id=3", "--data=my data.npz", "--insecure")


@pytest.fixture(autouse=True)
def files(own_search_path):
    """Lay out what a client has, and files of data that do not fit what everybody holds."""
    inputs = torch.arange(24.0).reshape(6, 4)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    write_shared(Path("transfer.npz"), Shared(TransferSet(inputs), None, ("circle", "square", "star")))
    write_client(Path("my data.npz"), Samples(inputs, labels))
    write_client(Path("wide.npz"), Samples(torch.zeros(2, 5), torch.tensor([0, 1])))
    write_client(Path("classes.npz"), Samples(inputs[:2], torch.tensor([0, 3])))
    write_client(Path("nan.npz"), Samples(torch.full((1, 4), torch.nan), torch.tensor([0])))
    Path("text.npz").write_text("no archive")
    Path("nodes").mkdir()
    for name in ("ca.crt", "nodes/clinic-a"):
        Path(name).write_text("a key")


@pytest.fixture
def supernodes(monkeypatch):
    """Note how each SuperNode would be started and how long the pauses are; they end with these exit codes."""
    noted = SimpleNamespace(started=[], pauses=[], codes=[])

    def start(command, env):
        noted.started.append(SimpleNamespace(command=list(command), env=env))
        return SimpleNamespace(wait=lambda: noted.codes.pop(0) if noted.codes else 0)

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(time, "sleep", noted.pauses.append)
    monkeypatch.setattr(flower, "free_port", lambda: 5555)
    return noted


# Wrong inputs


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--data=my data.npz", "--insecure"], "--id=N must be the client's place in the federation, from 0, not None"),
        (["--id=a", *GOOD[1:]], "--id=N must be the client's place in the federation, from 0, not 'a'."),
        (["--id=-1", *GOOD[1:]], "--id=N must be the client's place in the federation, from 0, not '-1'."),
        (["--id=1.5", *GOOD[1:]], "--id=N must be the client's place in the federation, from 0, not '1.5'."),
        (["--id"], "Argument --id: expected one argument. See fedfuse client --help."),
        (["--id=3", "--insecure"], "--data=PATH is missing: the file of this client's own samples."),
        (["--id=3", "--data=yours.npz", "--insecure"], "There is no file yours.npz."),
        (["--id=3", "--data=nodes", "--insecure"], "There is no file nodes."),
        ([*GOOD, "--transfer=all.npz"], "There is no file all.npz."),
        ([*GOOD, "--server=fl.example.org"], "--server must be HOST:PORT, not 'fl.example.org'."),
        ([*GOOD, "--server=:8000"], "--server must be HOST:PORT, not ':8000'."),
        ([*GOOD, "--server=fl.example.org:http"], "--server must be HOST:PORT, not 'fl.example.org:http'."),
        ([*GOOD, "--server=fl.example.org:"], "--server must be HOST:PORT, not 'fl.example.org:'."),
        ([*GOOD, "--server=fl.example.org:0"], "--server must be HOST:PORT, not 'fl.example.org:0'."),
        ([*GOOD, "--server=fl.example.org:65536"], "--server must be HOST:PORT, not 'fl.example.org:65536'."),
        ([*GOOD, "--state=ca.crt"], "{here}/ca.crt is not a directory."),
        (GOOD[:2], "--authority=ca.crt and --key=nodes/NAME are needed (see fedfuse certs), or --insecure for a"),
        ([*GOOD[:2], SECURE[0]], "--authority=ca.crt and --key=nodes/NAME are needed (see fedfuse certs), or"),
        ([*GOOD[:2], SECURE[1]], "--authority=ca.crt and --key=nodes/NAME are needed (see fedfuse certs), or"),
        ([*GOOD, *SECURE], "--insecure goes neither with --authority nor with --key."),
        ([*GOOD, SECURE[1]], "--insecure goes neither with --authority nor with --key."),
        ([*GOOD[:2], "--authority=no.crt", SECURE[1]], "There is no file no.crt."),
        ([*GOOD[:2], SECURE[0], "--key=nodes/b"], "There is no file nodes/b."),
        ([*GOOD, "--sever=a:1"], "Unknown option '--sever=a:1'. Did you mean '--server'?"),
        ([*GOOD, "--stat", "here"], "Unknown option '--stat'. Did you mean '--state'?"),
        ([*GOOD, "seed=3"], "Unknown option 'seed=3'."),
        (["--id=3", "--data=wide.npz", "--transfer=transfer.npz", "--insecure"], "wide.npz: its samples are of shape"),
        (["--id=3", "--data=classes.npz", "--transfer=transfer.npz", "--insecure"], "classes.npz: labels go from 0 to"),
        (["--id=3", "--data=nan.npz", "--transfer=transfer.npz", "--insecure"], "nan.npz: inputs holds a NaN or"),
        (["--id=3", "--data=text.npz", "--transfer=transfer.npz", "--insecure"], "text.npz is no NumPy archive"),
        ([*GOOD, "--transfer=text.npz"], "text.npz is no NumPy archive"),
    ],
)
def test_mistakes_end_with_code_2_and_one_line_before_anything_is_started(
    words, expected, supernodes, tmp_path, capsys
):
    before = set(Path().rglob("*"))
    assert main(["client", *words]) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"fedfuse: error: {expected.format(here=tmp_path)}")
    assert output.err.count("\n") == 1
    assert output.out == ""
    assert supernodes.started == []
    assert set(Path().rglob("*")) == before


def test_greatest_port_of_a_server_is_one(supernodes):
    assert main(["client", *GOOD, "--server=fl.example.org:65535"]) == 0
    assert "--superlink=fl.example.org:65535" in supernodes.started[0].command


def test_options_that_a_mistake_is_compared_with_are_those_of_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["client", "--help"])
    usage = capsys.readouterr().out.partition("example:")[0]
    assert {word.strip("[],") for word in usage.split() if word.startswith(("--", "[--"))} == set(client.OPTIONS)


# What is run


def test_supernode_is_told_who_it_is_where_its_files_are_and_whom_to_trust(supernodes, tmp_path, capsys):
    words = [*GOOD[:2], *SECURE, "--transfer=transfer.npz", "--server=fl.example.org:8123", "--state=my state"]
    assert main(["client", *words]) == 0
    (started,) = supernodes.started
    assert Path(started.command[0]).name == "flower-supernode"
    assert started.command[1:-1] == [
        "--superlink=fl.example.org:8123",
        "--host=127.0.0.1",
        "--port=5555",
        "--root-certificates=ca.crt",
        "--auth-supernode-private-key=nodes/clinic-a",
    ]
    assert parse_config_args([started.command[-1].removeprefix("--node-config=")]) == {
        "partition-id": 3,
        "data": str(tmp_path / "my data.npz"),
        "transfer": str(tmp_path / "transfer.npz"),
        "state": str(tmp_path / "my state"),
    }
    assert started.env == flower.environment(tmp_path / "my state" / "flower")
    assert capsys.readouterr().out == f"$ {flower.shown(started.command)}\n"


def test_supernode_of_a_rehearsal_needs_no_keys_and_finds_the_server_here(supernodes, tmp_path):
    assert main(["client", *GOOD]) == 0
    (started,) = supernodes.started
    assert started.command[1:-1] == ["--superlink=127.0.0.1:8000", "--host=127.0.0.1", "--port=5555", "--insecure"]
    assert parse_config_args([started.command[-1].removeprefix("--node-config=")]) == {
        "partition-id": 3,
        "data": str(tmp_path / "my data.npz"),
        "state": str(tmp_path / "fedfuse-client-3"),
    }


def test_only_its_owner_may_look_into_the_state(supernodes):
    before = os.umask(0)
    try:
        assert main(["client", *GOOD, "--state=deep/er"]) == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path("deep/er").stat().st_mode) == 0o700


def test_state_that_is_there_is_kept(supernodes):
    Path("fedfuse-client-3").mkdir()
    Path("fedfuse-client-3/round.pt").write_text("what must survive")
    assert main(["client", *GOOD]) == 0
    assert Path("fedfuse-client-3/round.pt").read_text() == "what must survive"


def test_data_that_cannot_be_checked_without_the_transfer_set_is_left_to_the_run(supernodes):
    assert main(["client", "--id=0", "--data=wide.npz", "--insecure"]) == 0
    assert len(supernodes.started) == 1


# How long it runs


def test_supernode_that_fails_is_started_again_after_a_pause(supernodes, capsys):
    supernodes.codes += [1, 1, 0]
    assert main(["client", *GOOD]) == 0
    first, second, third = supernodes.started
    assert first == second == third
    assert supernodes.pauses == [5, 5]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1] == lines[2]
    assert lines[1].startswith("The SuperNode ended; ")
    assert "code 2004: the server does not know this key, or not yet" in lines[1]
    assert lines[1].endswith(" Starting it again in 5 s.")


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (2, 2), (3, 3), (-signal.SIGTERM, 143), (-signal.SIGKILL, 137)])
def test_any_other_end_is_the_end_with_the_code_of_a_shell(code, expected, supernodes):
    supernodes.codes += [code]
    assert main(["client", *GOOD]) == expected
    assert len(supernodes.started) == 1
    assert supernodes.pauses == []


CHILD = """
import os, signal
signal.alarm(20)
def end(number, frame):
    os.write(1, b"asked")
    os._exit(1)
signal.signal(signal.SIGTERM, end)
os.write(1, b"ready")
while True:
    signal.pause()
"""


@pytest.fixture
def supernode(monkeypatch):
    """Return a function that puts a small program in the SuperNode's place; we get a signal once it is ready."""
    start, noted = subprocess.Popen, SimpleNamespace(started=[])

    def replace(number):
        def start_child(command, env):
            process = start([sys.executable, "-I", "-S", "-c", CHILD], env=env, stdout=subprocess.PIPE)
            noted.started.append(process)
            wait = process.wait

            def send_a_wish_and_wait():
                process.wait = wait
                assert process.stdout.read(len(b"ready")) == b"ready"
                signal.raise_signal(number)
                pytest.fail("the wish was not heard")

            process.wait = send_a_wish_and_wait
            return process

        monkeypatch.setattr(subprocess, "Popen", start_child)
        return noted

    yield replace
    for process in noted.started:
        process.kill()
        process.stdout.close()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_wish_to_end_terminates_the_supernode_waits_for_it_and_starts_none_again(
    number, supernode, monkeypatch, capsys
):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it is about to start again"))
    noted = supernode(number)

    def end_the_tests(number, frame):
        raise AssertionError("nobody listened")

    before = {one: signal.signal(one, end_the_tests) for one in (signal.SIGTERM, signal.SIGHUP)}
    try:
        assert main(["client", *GOOD]) == 130
        assert [signal.getsignal(one) for one in before] == [end_the_tests, end_the_tests]
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    (process,) = noted.started
    assert process.returncode == 1  # it has been waited for, and nobody took this for a reason to start it again
    assert process.stdout.read() == b"asked"
    output = capsys.readouterr()
    assert output.err == "fedfuse: interrupted\n"
    assert output.out.count("\n") == 1


def test_interrupt_between_two_starts_ends_the_command(supernodes, monkeypatch, capsys):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    supernodes.codes += [1]
    assert main(["client", *GOOD]) == 130
    assert len(supernodes.started) == 1
    assert capsys.readouterr().err == "fedfuse: interrupted\n"
