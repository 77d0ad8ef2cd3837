"""Ray is started as a user starts it, by the command, in processes of its own; each start takes some seconds."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from flwr.app import Error

from fedfuse import results
from fedfuse.cli import main
from fedfuse.client.state import ABSORBED, SHARED, DirectoryStore, Generation
from fedfuse.client.state_file import StateFile
from fedfuse.configuration import EngineSettings
from fedfuse.deploy.flower import free_port
from fedfuse.engine import ray
from fedfuse.engine.ray import WorkerDiedError
from fedfuse.errors import ConfigurationError

PATIENCE = 150  # seconds for any one step, on a machine that has much else to do
ROOT = Path(__file__).resolve().parents[2]
FEDERATION = ["num_clients=3", "learn.epochs=1", "transfer.size=40", "model=[mlp_small,cnn_small]"]


@pytest.fixture
def start(tmp_path):
    """Return a function that starts ``fedfuse run`` in a session of its own, which is gone after the test."""
    started = []

    def start_run(*overrides):
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "fedfuse", "run", *overrides],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start_run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def without_seconds(directory):
    return [
        {name: value for name, value in line.items() if name != "seconds"} for line in results.read_metrics(directory)
    ]


def test_a_run_on_ray_whose_worker_dies_says_so_and_ends_as_on_the_local_grid_when_it_is_resumed(
    start, tmp_path, monkeypatch
):
    (tmp_path / "calls").mkdir()
    parts = tmp_path / "parts" / "privacy"
    parts.mkdir(parents=True)
    # The first call of the second round; in the run on the local grid it is never reached.
    (parts / "dying.yaml").write_text(f"_target_: dying.Dying\ndirectory: {tmp_path / 'calls'}\ncall: 4\n")
    words = ["--config-dir=parts", *FEDERATION, "num_rounds=2", "privacy=[dying]"]

    dying = start(*words, "engine=ray", "engine.workers=2", "output=ray")
    output, errors = dying.communicate(timeout=PATIENCE)
    assert dying.returncode == 1
    assert "Stopped. Once mended, continue with: fedfuse run resume=ray" in output
    assert errors.strip().splitlines()[-1] == (
        "fedfuse: error: A Ray worker died (ActorDiedError), perhaps for lack of memory; "
        "run.log has what Ray says of it."
    )
    assert "Traceback" not in output + errors
    assert "ActorDiedError" in (tmp_path / "ray" / "run.log").read_text()
    assert [line["round"] for line in results.read_metrics(tmp_path / "ray")] == [1]

    resumed = start("resume=ray")
    output, errors = resumed.communicate(timeout=PATIENCE)
    assert resumed.returncode == 0, errors
    assert errors == ""  # nothing of Ray's or Flower's own
    assert "INFO" not in output
    assert "WARNING" not in output
    assert not list(Path("/tmp").glob(f"ray-*/session_*_{resumed.pid}"))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    local = ["run", *words, "engine.runner=sequential", "output=local"]
    assert main(local) == 0
    for stage in (".", "local_only"):
        assert without_seconds(tmp_path / "ray" / stage) == without_seconds(tmp_path / "local" / stage)
        assert same_states(tmp_path / "ray", tmp_path / "local" / stage) == 3 * 2


def same_states(ray_directory, local_directory):
    """Compare the clients' files of the stage that has the same states; count what was compared."""
    local = StateFile(local_directory / "checkpoint" / "clients.sqlite")
    generations = [(client, Generation(2, phase)) for client in range(3) for phase in (SHARED, ABSORBED)]
    for folder in (ray_directory / "checkpoint" / "clients").iterdir():
        store = DirectoryStore(folder)
        same = 0
        for client, generation in generations:
            expected, found = local.load(client, generation).parameters, store.load(client, generation).parameters
            same += all(torch.equal(found[name], tensor) for name, tensor in expected.items())
        if same == len(generations):
            return same
    return 0


def is_there(session):
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    return True


def test_ctrl_c_stops_ray_and_says_how_to_continue(start, tmp_path):
    run = start(*FEDERATION, "num_rounds=1000", "engine=ray", "engine.workers=1", "output=run")
    deadline = time.monotonic() + PATIENCE
    while not results.read_metrics(tmp_path / "run"):
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    output, errors = run.communicate(timeout=PATIENCE)
    assert run.returncode == 130
    assert "Interrupted. To continue: fedfuse run resume=run" in output
    assert errors == "fedfuse: interrupted\n"
    assert (tmp_path / "run" / "checkpoint" / "server.pt").is_file()
    while is_there(run.pid):  # its session, of which nothing is left in the end
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_ray_the_message_names_the_extra(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(ray, "find_spec", lambda name: None)
    assert main(["run", "engine=ray"]) == 2
    assert capsys.readouterr().err == (
        "fedfuse: error: engine=ray needs Ray, which is not installed: pip install 'fedfuse[ray]'\n"
    )
    assert not (tmp_path / "outputs").exists()


def test_backend_follows_the_settings():
    scratch = Path("/scratch")
    plain = ray._backend(EngineSettings(name="ray", threads=3), scratch)
    assert plain["client_resources"] == {"num_cpus": 3, "num_gpus": 0.0}
    assert plain["init_args"]["_temp_dir"] == "/scratch"
    assert "num_cpus" not in plain["init_args"]
    limited = ray._backend(EngineSettings(name="ray", threads=3, workers=4), scratch)
    assert limited["init_args"]["num_cpus"] == 12
    joined = ray._backend(EngineSettings(name="ray", address="auto"), scratch)["init_args"]
    assert joined == {"address": "auto", "logging_level": "error", "log_to_driver": False}


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("<class 'ray.exceptions.ActorDiedError'>:<'...'>", "ActorDiedError"),
        ("", "without a reason"),
        (None, "without"),
    ],
)
def test_a_reply_from_outside_of_the_app_means_that_its_worker_is_gone(reason, kind):
    reply = SimpleNamespace(has_error=lambda: True, error=Error(0, reason))
    with pytest.raises(WorkerDiedError, match=kind):
        ray._check_worker(reply)


def test_other_replies_are_left_to_the_round(monkeypatch):
    ray._check_worker(SimpleNamespace(has_error=lambda: True, error=Error(2, "")))
    ray._check_worker(SimpleNamespace(has_error=lambda: False))


def test_a_cluster_that_is_not_there_is_one_line_and_no_long_wait(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    address = f"127.0.0.1:{free_port()}"
    assert main(["run", *FEDERATION, "engine=ray", f"engine.address={address}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"fedfuse: error: There is no Ray cluster at engine.address={address}: ")
    assert error.count("\n") == 1


def test_settings_that_exclude_each_other_are_refused():
    with pytest.raises(ConfigurationError, match="address names one that is running"):
        EngineSettings(name="ray", workers=2, address="auto")
