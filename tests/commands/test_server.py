import itertools
import json
import os
import re
import select
import shlex
import signal
import socket
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from flwr.common.config import parse_config_args

from fedfuse import __version__
from fedfuse.assembly import configuration_of, resumed_directory
from fedfuse.cli import main
from fedfuse.commands import server
from fedfuse.composition import compose
from fedfuse.configuration import to_yaml
from fedfuse.deploy import flower
from fedfuse.deploy.certificates import make_authority
from fedfuse.deploy.node_keys import make_node_key
from fedfuse.results import METRICS_FILE

pytestmark = pytest.mark.usefixtures("own_search_path")

SMALL = ("strategy=local", "num_clients=2", "transfer.size=40", "model=[mlp_small]")
REHEARSAL = ("--insecure", *SMALL)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """The certificates of a server, and the keys of two nodes."""
    directory = tmp_path_factory.mktemp("certificates")
    make_authority(directory)
    for name in ("clinic-a", "clinic-b"):
        make_node_key(directory, name)
    return directory


def listed(**runs):
    """Write what Flower lists: the status of each run by its id."""
    return json.dumps({"success": True, "runs": [{"run-id": run, "status": status} for run, status in runs.items()]})


@pytest.fixture
def deployment(monkeypatch):
    """Put commands of Flower in place that note how they are called, and do what a test says."""
    said = SimpleNamespace(
        calls=[],
        registered=lambda key: (0, ""),
        during_run=lambda: None,
        before=listed(old="finished:failed"),
        after=listed(new="finished:completed", old="finished:failed"),
        complaint="",
    )

    def run(words, env, **options):
        said.calls.append(SimpleNamespace(words=list(words), env=env))
        assert Path(words[0]).name == "flwr"
        if words[1:3] == ["supernode", "register"]:
            code, output = said.registered(Path(words[3]))
            return subprocess.CompletedProcess(words, code, stdout="", stderr=output)
        if words[1] == "run":
            said.during_run()
            return subprocess.CompletedProcess(words, 0)
        assert words[1] == "list"
        submitted = any(call.words[1] == "run" for call in said.calls)
        return subprocess.CompletedProcess(
            words, 0, stdout=said.after if submitted else said.before, stderr=said.complaint
        )

    monkeypatch.setattr(subprocess, "run", run)
    return said


@pytest.fixture
def superlink(deployment, monkeypatch):
    """Put a SuperLink in place that listens from when it is started until its group is told to end."""
    open_ports, signals = [], []

    def start(words, env, **options):
        deployment.calls.append(SimpleNamespace(words=list(words), env=env, **options))
        (port,) = [word.removeprefix("--port=") for word in words if word.startswith("--port=")]
        open_ports.append(socket.create_server(("127.0.0.1", int(port))))
        return SimpleNamespace(pid=4711, poll=lambda: None, wait=lambda timeout=None: 0)

    def end(group, number):
        if not open_ports:
            raise ProcessLookupError
        assert group == 4711
        signals.append(number)
        open_ports.pop().close()

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(os, "killpg", end)
    yield SimpleNamespace(signals=signals)
    assert open_ports == []


@pytest.fixture
def start():
    """Return a function that runs the command on a free port."""
    return lambda *words: main(["server", f"--port={flower.free_port()}", *words])


def submitted(deployment):
    """Read the overrides of the run as Flower does."""
    (call,) = [call for call in deployment.calls if call.words[1] == "run"]
    assert call.words[-2] == "--run-config"
    return parse_config_args(call.words[-1:])


# Wrong inputs


@pytest.fixture(scope="session")
def configurations(tmp_path_factory):
    """The configuration of a small run, and of one with a strategy that is only there for this run."""
    parts = tmp_path_factory.mktemp("parts")
    (parts / "strategy").mkdir()
    (parts / "strategy" / "mine.yaml").write_text("_target_: own.Mine\n")
    return {"run": to_yaml(compose(SMALL)), "own": to_yaml(compose(["strategy=mine"], parts))}


@pytest.fixture
def nothing_may_start(monkeypatch):
    def start(*words, **options):
        raise AssertionError(f"{words} was started")

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(subprocess, "run", start)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--port=0", *REHEARSAL], "--port must be a whole number from 1 to 65535, not '0'."),
        (["--port=65536", *REHEARSAL], "--port must be a whole number from 1 to 65535, not '65536'."),
        (["--port=http", *REHEARSAL], "--port must be a whole number from 1 to 65535, not 'http'."),
        (["--port=-1", *REHEARSAL], "--port must be a whole number from 1 to 65535, not '-1'."),
        (SMALL, "There is no file certs/ca.crt: make it with fedfuse certs init, or say --insecure for a rehearsal."),
        (["--certificates=half"], "There is no file half/server.pem: make it with fedfuse certs init, or say"),
        (["--certificates=no nodes"], "No client has a key in no nodes: make one with fedfuse certs node NAME."),
        (["--certificates=private"], "There is no file private/nodes/a.pub, by which the server knows a client: bring"),
        ([*REHEARSAL, "--state=half/ca.crt"], "{here}/half/ca.crt is not a directory."),
        ([*REHEARSAL, "--app=full"], "--app=full is no clone: it has no pyproject.toml."),
        ([*REHEARSAL, "--app=nowhere"], "--app=nowhere is no clone: it has no pyproject.toml."),
        ([*REHEARSAL, "--prot=8000"], "Unknown option '--prot=8000'. Did you mean '--port'?"),
        ([*REHEARSAL, "--secure"], "Unknown option '--secure'. Did you mean '--insecure'?"),
        (["--host"], "Argument --host: expected one argument. See fedfuse server --help."),
        ([*REHEARSAL, "sed=3"], "Unknown key 'sed'."),
        ([*REHEARSAL, "strategy=knfuu"], "Unknown strategy 'knfuu'. Did you mean 'knfu'?"),
        ([*REHEARSAL, "seed=1,2"], "seed=1,2 gives several values"),
        ([*REHEARSAL, "strategy=fedavg", "model=[mlp_small,cnn_small]"], "Strategy fedavg needs one architecture"),
        ([*REHEARSAL, "transfer.path=no.npz"], "There is no file no.npz."),
        ([*REHEARSAL, "output=full"], "output=full exists and is not empty."),
        (["--insecure", "resume=nowhere"], "resume={here}/nowhere: no config.yaml there, so this is no run's"),
        (["--insecure", "resume=run", "seed=4"], "resume={here}/run: that run has another seed; give the overrides"),
        (["--insecure", "resume=run", "sed=4"], "Unknown key 'sed'."),
        (["--insecure", "resume=run", "num_rounds=1"], "num_rounds=1, but 2 rounds are already done."),
        (["--insecure", "resume=own"], "The overrides that {here}/own/config.yaml came from cannot be found again;"),
    ],
)
def test_mistakes_end_with_code_2_and_one_line_before_anything_is_started(
    words, expected, nothing_may_start, certificates, configurations, tmp_path, capsys
):
    for name in ("half", "no nodes", "full", "private/nodes", *configurations):
        Path(name).mkdir(parents=True)
    Path("half/ca.crt").write_text("")
    for directory, name in itertools.product(("no nodes", "private"), ("ca.crt", "server.pem", "server.key")):
        Path(directory, name).symlink_to(certificates / name)
    Path("private/nodes/a").write_text("a private key, whose public one is elsewhere")
    Path("full/mine.txt").write_text("mine")
    for name, configuration in configurations.items():
        Path(name, "config.yaml").write_text(configuration)
    Path("run", METRICS_FILE).write_text('{"round": 1}\n{"round": 2}\n')
    before = set(Path().rglob("*"))
    assert main(["server", *words]) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"fedfuse: error: {expected.format(here=tmp_path)}")
    assert output.err.count("\n") == 1
    assert output.out == ""
    assert set(Path().rglob("*")) == before


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_port_that_is_taken_is_a_mistake_before_anything_is_started(host, nothing_may_start, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["server", f"--host={host}", f"--port={port}", *REHEARSAL]) == 2
    output = capsys.readouterr()
    address = f"{'localhost' if host == 'localhost' else '127.0.0.1'}:{port}"
    assert output.err == (f"fedfuse: error: Somebody listens on {address} already: stop it, or take another --port.\n")
    assert output.out == ""
    assert not any(Path().iterdir())


def test_options_that_a_mistake_is_compared_with_are_those_of_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["server", "--help"])
    usage = capsys.readouterr().out.partition("example:")[0]
    assert {word.strip("[],") for word in usage.split() if word.startswith(("--", "[--"))} == set(server.OPTIONS)


# What is run


def test_superlink_is_started_then_nodes_are_let_in_then_the_run_goes(deployment, superlink, certificates, capsys):
    port = flower.free_port()
    words = ["--host=0.0.0.0", f"--port={port}", f"--certificates={certificates}", *SMALL, "output=my run"]
    assert main(["server", *words]) == 0
    link, *others = [call.words for call in deployment.calls]
    tls = flower.ServerFiles(certificates / "ca.crt", certificates / "server.pem", certificates / "server.key")
    assert link == flower.superlink("0.0.0.0", port, Path("fedfuse-server/superlink.db").resolve(), tls)
    others[:2] = sorted(others[:2])  # nodes are let in side by side
    assert others == [
        flower.register(certificates / "nodes" / "clinic-a.pub"),
        flower.register(certificates / "nodes" / "clinic-b.pub"),
        flower.list_runs(),
        flower.submit(Path("fedfuse-server/app").resolve(), submitted(deployment)["overrides"]),
        flower.list_runs(),
    ]
    assert superlink.signals == [signal.SIGTERM]
    shown = [f"$ {flower.shown(words)}" for words in (link, *others) if words != flower.list_runs()]
    assert capsys.readouterr().out.splitlines() == shown


def test_rehearsal_needs_no_certificates_and_no_keys(deployment, superlink, start):
    assert start(*REHEARSAL) == 0
    link, *others = [call.words for call in deployment.calls]
    assert link[-1] == "--insecure"
    assert [words[1] for words in others] == ["list", "run", "list"]


def test_all_commands_find_the_superlink_in_the_state_directory(deployment, superlink, certificates, tmp_path):
    port = flower.free_port()
    words = ["--host=0.0.0.0", f"--port={port}", "--state=my state", f"--certificates={certificates}", *SMALL]
    assert main(["server", *words]) == 0
    home = tmp_path / "my state" / "flower"
    assert [call.env for call in deployment.calls] == [flower.environment(home)] * 6
    assert tomllib.loads((home / "config.toml").read_text()) == {
        "superlink": {
            "fedfuse": {"address": f"127.0.0.1:{port}", "root-certificates": str((certificates / "ca.crt").resolve())}
        }
    }
    assert stat.S_IMODE((tmp_path / "my state").stat().st_mode) == 0o700
    link = deployment.calls[0]
    assert link.stdout.name == link.stderr.name == str(tmp_path / "my state" / "superlink.log")
    assert link.start_new_session is True


def test_installed_fedfuse_is_the_app_unless_another_is_named(deployment, superlink, start):
    assert start(*REHEARSAL) == 0
    app = Path(deployment.calls[2].words[2])
    assert (app / "pyproject.toml").read_text() == flower.INSTALLED_APP.format(version=__version__)
    deployment.calls.clear()
    Path("my clone").mkdir()
    Path("my clone/pyproject.toml").write_text("mine")
    assert start(*REHEARSAL, "--app=my clone") == 0
    assert deployment.calls[2].words[1:3] == ["run", "my clone"]
    assert Path("my clone/pyproject.toml").read_text() == "mine"


# The overrides


@pytest.mark.parametrize(
    "name", ["plain", "two words", "it's", 'the "best" run', "back\\slash", "ends with \\", """all ' " \\ (1)=[2]"""]
)
def test_run_goes_into_a_directory_of_this_machine_whatever_its_name(
    name, deployment, superlink, start, tmp_path, monkeypatch
):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    assert start(*REHEARSAL, "seed=3", "num_rounds=7") == 0
    (directory,) = (tmp_path / name / "outputs" / "local" / "digits").iterdir()
    run_config = submitted(deployment)
    configuration = configuration_of(run_config)
    assert configuration == compose([*SMALL, "seed=3", "num_rounds=7", f"output={server.quote(str(directory))}"])
    assert configuration.output == str(directory)
    assert resumed_directory(run_config) is None


def test_output_of_the_user_becomes_absolute(deployment, superlink, start, tmp_path):
    assert start(*REHEARSAL, "output='my run (1)'") == 0
    run_config = submitted(deployment)
    assert configuration_of(run_config).output == str(tmp_path / "my run (1)")
    assert run_config["overrides"].count("output=") == 1


def test_resumed_run_gets_its_own_overrides_again_and_the_directory(deployment, superlink, start, tmp_path):
    directory = tmp_path / "run (1)"
    directory.mkdir()
    configuration = compose([*SMALL, "learn.batch_size=8", f"output='{directory}'"])
    (directory / "config.yaml").write_text(to_yaml(configuration))
    assert start("--insecure", "resume=run (1)", "num_rounds=40") == 0
    run_config = submitted(deployment)
    assert resumed_directory(run_config) == directory
    assert configuration_of(run_config) == compose([*SMALL, "learn.batch_size=8", "num_rounds=40"])
    assert not Path("outputs").exists()


# What can go wrong


@pytest.fixture
def checked(monkeypatch, tmp_path):
    """Take every configuration for right: how it is checked has tests of its own."""
    monkeypatch.setattr(server, "_overrides", lambda words: ("", tmp_path / "run"))


def test_key_that_is_known_already_is_no_error(checked, deployment, superlink, certificates, start):
    deployment.registered = lambda key: (1, "Error:\nPublic key already\nin use")
    assert start(f"--certificates={certificates}") == 0
    assert [call.words[1] for call in deployment.calls[1:]] == ["supernode", "supernode", "list", "run", "list"]


def test_key_that_is_refused_ends_the_command_in_one_line(checked, deployment, superlink, certificates, start, capsys):
    deployment.registered = lambda key: (1, "Error:\n  not a\nkey") if key.stem == "clinic-b" else (0, "")
    assert start(f"--certificates={certificates}") == 1
    path = certificates / "nodes" / "clinic-b.pub"
    assert capsys.readouterr().err == f"fedfuse: error: Flower does not let {path} in: Error: not a key\n"
    assert [call.words[1] for call in deployment.calls[1:]] == ["supernode", "supernode"]
    assert superlink.signals == [signal.SIGTERM]


OLD = {"one": "finished:failed", "two": "running"}


@pytest.mark.parametrize(
    ("before", "after", "ended"),
    [
        (listed(), listed(new="finished:failed"), "The run ended as 'finished:failed'"),
        (listed(**OLD), listed(**OLD, new="finished:stopped"), "The run ended as 'finished:stopped'"),
        (listed(**OLD), listed(new="running", **OLD), "The run ended as 'running'"),
        # Another run is not this one, however it has ended.
        (listed(), listed(), "The run was not started"),
        (listed(one="finished:completed"), listed(one="finished:completed"), "The run was not started"),
        (listed(one="running"), listed(one="finished:completed"), "The run was not started"),
    ],
)
def test_run_that_did_not_complete_says_how_to_continue(
    before, after, ended, checked, deployment, superlink, start, tmp_path, capsys
):
    begin_run(tmp_path / "run")
    deployment.before, deployment.after = before, after
    assert start("--insecure") == 1
    assert capsys.readouterr().err == (
        f"fedfuse: error: {ended}. Once mended, continue with: fedfuse server resume={tmp_path / 'run'}\n"
    )
    assert superlink.signals == [signal.SIGTERM]


@pytest.mark.parametrize("before", [listed(), listed(old="finished:failed"), listed(old="running")])
def test_only_the_new_run_is_judged(before, checked, deployment, superlink, start):
    deployment.before = before
    runs = {run["run-id"]: run["status"] for run in json.loads(before)["runs"]}
    deployment.after = listed(**runs, new="finished:completed")
    assert start("--insecure") == 0


@pytest.mark.parametrize(
    ("output", "complaint", "told"),
    [
        ("Error: no\n  connection", "", "Error: no connection"),
        ("", "Traceback\n\nIt broke.\n", "Traceback It broke."),
        ('{"success": false}', "", '{"success": false}'),
        ('{"runs": [{"status": "running"}]}', "", '{"runs": [{"status": "running"}]}'),
        ("[]", "", "[]"),
        ("null", "", "null"),
        ("", "", "it says nothing"),
        ("x" * 1000, "", "x" * 300),
    ],
)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_list_of_runs_that_cannot_be_read_is_told_in_one_line(
    moment, output, complaint, told, checked, deployment, superlink, start, capsys
):
    setattr(deployment, moment, output)
    deployment.complaint = complaint
    assert start("--insecure") == 1
    assert capsys.readouterr().err == f"fedfuse: error: Flower does not tell how its runs are: {told}\n"
    assert superlink.signals == [signal.SIGTERM]
    assert [call.words[1] for call in deployment.calls[1:]] == ["list", "run", "list"][: 1 if moment == "before" else 3]


def begin_run(directory):
    """Write what a run writes first."""
    directory.mkdir()
    (directory / "config.yaml").write_text("seed: 0\n")


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["run", "my run", "it's (1)", "$HOME"])
def test_interrupt_ends_with_code_130_and_says_in_words_of_a_shell_how_to_continue(
    name, deployment, superlink, start, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(server, "_overrides", lambda words: ("", tmp_path / name))
    begin_run(tmp_path / name)
    deployment.during_run = interrupt
    assert start("--insecure") == 130
    output = capsys.readouterr()
    hint = output.out.splitlines()[-1].removeprefix("Interrupted. To continue: ")
    assert shlex.split(hint) == ["fedfuse", "server", f"resume={tmp_path / name}"]
    assert output.err == "fedfuse: interrupted\n"
    assert superlink.signals == [signal.SIGTERM]
    assert [call.words[1] for call in deployment.calls[1:]] == ["list", "run"]


def test_run_that_had_not_begun_is_continued_with_the_same_command(checked, deployment, superlink, start, capsys):
    deployment.during_run = interrupt
    assert start("--insecure") == 130
    assert capsys.readouterr().out.endswith("\nInterrupted. To continue: the same command\n")
    deployment.calls.clear()
    deployment.during_run, deployment.after = lambda: None, deployment.before
    assert start("--insecure") == 1
    assert capsys.readouterr().err == (
        "fedfuse: error: The run was not started. Once mended, continue with: the same command\n"
    )


# Real processes: a SuperLink of a few lines, and a child of it that does not end when it is asked to

SECONDS_TO_GIVE_UP = 20
BEGIN = """
import os, signal, socket, subprocess, sys
pipe = int(sys.argv[1])
def give_up(number, frame):
    os.write(pipe, b"never stopped ")
    os._exit(1)
signal.signal(signal.SIGALRM, give_up)
signal.alarm(int(sys.argv[2]))
"""
CHILD = f"""{BEGIN}
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(pipe, b"child ")
while True:
    signal.pause()
"""
PARENT = f"""{BEGIN}
port, refuses, child = int(sys.argv[3]), sys.argv[4] == "True", sys.argv[5]
if refuses:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-I", "-S", "-c", child, *sys.argv[1:3]], pass_fds=[pipe])
listening = socket.create_server(("127.0.0.1", port))
os.write(pipe, b"parent ")
while True:
    signal.pause()
"""


@pytest.fixture
def replace_superlink(monkeypatch):
    """Return a function that runs a small program in the place of the SuperLink."""
    popen = subprocess.Popen

    def replace(program, *words, pass_fds=()):
        def start(command, env, **options):
            (port,) = [word.removeprefix("--port=") for word in command if word.startswith("--port=")]
            words_with_port = [port if word == "PORT" else word for word in words]
            return popen([sys.executable, "-I", "-S", "-c", program, *words_with_port], pass_fds=pass_fds, **options)

        monkeypatch.setattr(subprocess, "Popen", start)

    return replace


@pytest.fixture
def family(replace_superlink, monkeypatch):
    """Run a SuperLink with a child of its own; both hold the one end of a pipe for as long as they live."""
    monkeypatch.setattr(server, "SECONDS_TO_STOP", 0.05)
    reading, writing = os.pipe()

    def read():
        ready, _, _ = select.select([reading], [], [], 2 * SECONDS_TO_GIVE_UP)
        assert ready, "the processes neither wrote nor ended"
        return os.read(reading, 100)

    def replace(refuses):
        words = [str(writing), str(SECONDS_TO_GIVE_UP), "PORT", str(refuses), CHILD]
        replace_superlink(PARENT, *words, pass_fds=[writing])

    def check_alive():
        said = b""
        while len(said) < len("child parent "):
            said += read()
        assert sorted(said.split()) == [b"child", b"parent"]

    def check_gone():
        os.close(writing)
        assert read() == b""

    yield SimpleNamespace(replace=replace, check_alive=check_alive, check_gone=check_gone)
    os.close(reading)


WISHES = {"terminated": signal.SIGTERM, "hung up": signal.SIGHUP}


@pytest.fixture
def end_the_tests():
    """Take a wish to end that nobody listens for as a failure, not as the end of all tests."""

    def fail(number, frame):
        raise AssertionError("nobody listened")

    before = {number: signal.signal(number, fail) for number in WISHES.values()}
    yield fail
    assert [signal.getsignal(number) for number in before] == [fail, fail]
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("end_the_tests")
@pytest.mark.parametrize("refuses", [False, True])
@pytest.mark.parametrize(
    ("end", "code"),
    [("completed", 0), ("failed", 1), ("interrupted", 130), ("terminated", 130), ("hung up", 130), ("crashed", None)],
)
def test_no_process_of_the_superlink_is_left_behind(end, code, refuses, checked, deployment, family, start):
    family.replace(refuses)

    def run():
        family.check_alive()
        if end == "interrupted":
            raise KeyboardInterrupt
        if end in WISHES:
            signal.raise_signal(WISHES[end])
            pytest.fail("the wish to end was not heard")
        if end == "crashed":
            raise OSError("no space left")

    deployment.during_run = run
    if end == "failed":
        deployment.after = listed(new="finished:failed")
    if end == "crashed":
        with pytest.raises(OSError, match="no space left"):
            start("--insecure")
    else:
        assert start("--insecure") == code
    family.check_gone()


@pytest.mark.parametrize(
    ("log", "last"), [("starting\\nPort in use.\\n\\n", "Port in use."), ("one", "one"), ("", "nothing")]
)
def test_superlink_that_ends_at_once_is_an_error_with_the_last_line_of_its_log(
    log, last, checked, deployment, replace_superlink, start, tmp_path, capsys
):
    replace_superlink(f"import sys; sys.stderr.write('{log}'); sys.exit(3)")
    assert start("--insecure") == 1
    path = tmp_path / "fedfuse-server" / "superlink.log"
    assert capsys.readouterr().err == f"fedfuse: error: The SuperLink did not start; {path} ends with: {last}\n"
    assert deployment.calls == []


def test_superlink_that_never_answers_is_stopped_in_the_end(
    checked, deployment, replace_superlink, monkeypatch, start, capsys
):
    monkeypatch.setattr(server, "SECONDS_TO_START", 0)
    reading, writing = os.pipe()
    replace_superlink(f"{BEGIN}signal.pause()", str(writing), str(SECONDS_TO_GIVE_UP), pass_fds=[writing])
    assert start("--insecure") == 1
    os.close(writing)
    assert select.select([reading], [], [], 2 * SECONDS_TO_GIVE_UP)[0]
    assert os.read(reading, 1) == b""
    os.close(reading)
    assert re.search(r"The SuperLink did not start; .*superlink\.log ends with: nothing\n$", capsys.readouterr().err)
    assert deployment.calls == []
