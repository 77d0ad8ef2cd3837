"""What W&B is told is read back from the file that it keeps of a run; nothing here touches a network."""

import json
import os
import socket
import struct
import threading
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import records
import wandb
from PIL import Image
from wandb.proto import wandb_internal_pb2

from fedfuse.components import build
from fedfuse.composition import compose
from fedfuse.errors import ConfigurationError
from fedfuse.metrics import round_metrics
from fedfuse.results import LOCAL_ONLY, append_round
from fedfuse.summary import ClientFacts, write_summary
from fedfuse.tracking import wandb as tracking
from fedfuse.tracking.scalars import scalars
from fedfuse.tracking.tracker import FEDERATED
from fedfuse.tracking.wandb import Choice, WeightsAndBiases, choose, is_reachable

KEY = 10 * "0123"
BLOCK = 32768  # bytes of W&B's file between which no part of a record extends


@pytest.fixture(autouse=True)
def own_home_without_network(monkeypatch, tmp_path):
    """Neither credentials, settings nor a network; no process of W&B is left behind."""

    def refuse(*args, **kwargs):
        raise OSError("there is no network")

    for name in [name for name in os.environ if name.startswith("WANDB_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    wandb.termsetup(wandb.Settings(), None)  # as talkative as it is by default
    yield
    wandb.teardown()


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "my run"
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def configuration():
    return asdict(compose(["strategy=fedmd", "seed=3", "tracking=[wandb]"]))


@pytest.fixture
def online(monkeypatch):
    """Put W&B's server in place: it notes what it is told, and says from which step on a run continues."""
    server = SimpleNamespace(starting_step=0, logged=[], settings=[], finish=lambda exit_code: None)

    def init(**arguments):
        server.settings.append(arguments)
        return SimpleNamespace(
            url="https://server/run",
            starting_step=server.starting_step,
            define_metric=lambda *args, **kwargs: None,
            log=lambda values, step, commit: server.logged.append((step, values["round"])) if commit else None,
            finish=lambda exit_code: server.finish(exit_code),
        )

    monkeypatch.setattr(tracking, "choose", lambda mode: Choice("online", ""))
    monkeypatch.setattr(wandb, "init", init)
    return server


def tell(tracker, numbers, stage=FEDERATED):
    for record in records.rounds(numbers):
        tracker.round_finished(round_metrics(record), stage)


def progress(directory):
    return json.loads((directory / "tracking" / "wandb.json").read_text())


def folders(directory):
    return sorted((directory / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_mtime_ns)


def read(folder):
    """Read the records of one of W&B's files, by kind: framed in blocks, each part with checksum, length and type."""
    wandb.teardown()  # it writes in a process of its own, also after the end of a run
    [path] = folder.glob("run-*.wandb")
    data, position, parts, found = path.read_bytes(), 7, b"", {}
    assert data.startswith(b":W&B")
    while position + 7 <= len(data):
        left = BLOCK - position % BLOCK
        _, length, kind = struct.unpack("<IHB", data[position : position + 7]) if left >= 7 else (0, 0, 0)
        if kind == 0:
            position += left
            continue
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # the whole of a record, or its last part
            record = wandb_internal_pb2.Record.FromString(parts)
            name = record.WhichOneof("record_type")
            found.setdefault(name, []).append(getattr(record, name))
            parts = b""
    return found


def history(folder):
    """What was logged, without W&B's own clock."""
    rows = [
        {"/".join(item.nested_key): json.loads(item.value_json) for item in row.item}
        for row in read(folder).get("history", [])
    ]
    return [{name: value for name, value in row.items() if name not in ("_timestamp", "_runtime")} for row in rows]


def summary_of(folder):
    values = {}
    for record in read(folder)["summary"]:
        for update in record.update:
            target = values
            *path, last = update.nested_key or [update.key]
            for key in path:
                target = target.setdefault(key, {})
            target[last] = json.loads(update.value_json)
    return values


def test_without_a_key_a_run_is_recorded_offline_under_its_name(directory, configuration, capfd):
    tracker = WeightsAndBiases(group="a group", tags=["one", "two"])
    lines = tracker.begin(directory, configuration)
    tracker.end(None, ())
    assert lines == [
        "W&B: recording offline (there is no valid API key: wandb login); "
        f"to upload it later: wandb sync '{directory}/wandb'"
    ]
    [folder] = folders(directory)
    kept = read(folder)
    [run] = kept["run"]
    assert (run.project, run.display_name, run.run_group) == ("fedfuse", "fedmd on digits, seed 3", "a group")
    assert (list(run.tags), run.run_id, run.resume) == (["one", "two"], progress(directory)["run_id"], True)
    config = {update.key: json.loads(update.value_json) for update in run.config.update}
    assert config.pop("_wandb") == {}
    assert config == json.loads(json.dumps(configuration))
    # A run that was stopped is marked as failed.
    assert [exit.exit_code for exit in kept["exit"]] == [1]
    assert capfd.readouterr() == ("", "")


def test_machine_code_and_surroundings_are_not_recorded(directory, configuration, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "secret-machine")
    tracker = WeightsAndBiases()
    tracker.begin(directory, configuration)
    print("a secret line")  # noqa: T201
    tracker.end(None, ())
    [folder] = folders(directory)
    [run] = read(folder)["run"]
    assert (run.host, run.git.commit, run.git.remote_url, run.telemetry.label.code_string) == ("", "", "", "")
    [file] = folder.glob("run-*.wandb")
    assert b"secret" not in file.read_bytes()
    assert list((folder / "files").rglob("*")) == []
    assert not {"output", "output_raw", "environment", "stats", "files"} & read(folder).keys()


def test_rounds_of_both_stages_are_logged_by_round(directory, configuration):
    tracker = WeightsAndBiases()
    tracker.begin(directory, configuration)
    tell(tracker, [1, 2])
    tell(tracker, [1], stage=LOCAL_ONLY)
    tracker.end(None, ())
    [folder] = folders(directory)
    values = [scalars(round_metrics(record)) for record in records.rounds([1, 2])]
    assert history(folder) == [
        {"_step": 0, "round": 1, **values[0]},
        {"_step": 1, "round": 2, **values[1]},
        {"_step": 2, "round": 1, **{f"local_only/{name}": value for name, value in values[0].items()}},
    ]
    metrics = {metric.name: metric for metric in read(folder)["metric"]}
    assert metrics.pop("round").options.hidden
    assert metrics.keys() == {*values[0], *(f"local_only/{name}" for name in values[0])}
    assert all(metric.step_metric == "round" and metric.summary.last for metric in metrics.values())
    assert not any(metric.summary.best or metric.summary.max or metric.summary.min for metric in metrics.values())


def test_the_end_has_table_figures_and_the_summary_of_the_run(directory, configuration):
    rounds = records.rounds([1, 2])
    # In the last round nobody told of the general accuracy.
    rounds[1] = replace(rounds[1], clients=tuple(replace(one, general_accuracy=None) for one in rounds[1].clients))
    for record in rounds:
        append_round(directory, record)
    append_round(directory / LOCAL_ONLY, records.rounds([1])[0])
    facts = [ClientFacts(0, "small", 7, (3, 4)), ClientFacts(1, "wide", None, None)]
    summary = write_summary(directory, {}, facts)
    Image.new("RGB", (4, 4)).save(directory / "relevance.png")

    tracker = WeightsAndBiases()
    tracker.begin(directory, configuration)
    for record in rounds:
        tracker.round_finished(round_metrics(record), FEDERATED)
    tracker.end(summary, [directory / "relevance.png", directory / "not_an_image.pdf"])

    wandb.teardown()
    [folder] = folders(directory)
    [table] = (folder / "files").rglob("clients*.table.json")
    table = json.loads(table.read_text())
    assert table["columns"] == [
        "client_id",
        "model",
        "num_examples",
        "local_only_accuracy",
        "personal_accuracy",
        "gain",
        "general_accuracy",
    ]
    assert table["data"] == [[0, "small", 7, 0.1, 0.2, 0.1, 0.05], [1, "wide", None, 0.1, 0.2, 0.1, 1 / 20 + 1 / 100]]
    assert [path.name.split("_")[0] for path in (folder / "files").rglob("*.png")] == ["relevance"]
    last = history(folder)[-1]
    assert last["_step"] == 2
    assert (last["clients/_type"], last["figures/relevance/_type"]) == ("table-file", "image-file")
    final = summary_of(folder)
    assert final["personal/mean"] == {"last": 0.2, "mean_of_last_five": pytest.approx(0.15)}
    assert final["general/mean"] == {"last": None, "mean_of_last_five": pytest.approx(0.055)}
    assert final["bytes/up"] == {"last": 100}
    assert [exit.exit_code for exit in read(folder)["exit"]] == [0]
    # The copy of the table that is uploaded is kept with the run.
    [artifact] = read(folder)["artifact"]
    assert all(entry.local_path.startswith(str(directory)) for entry in artifact.manifest.contents)
    assert "WANDB_DATA_DIR" not in os.environ


def test_a_resumed_run_continues_the_same_wandb_run_and_repeats_no_round(directory, configuration):
    for numbers, stage in (([1, 2], FEDERATED), ([1, 2, 3], FEDERATED), ([1], LOCAL_ONLY)):
        tracker = WeightsAndBiases()
        tracker.begin(directory, configuration)
        tell(tracker, numbers, stage)
        tell(tracker, numbers, stage)
        tracker.end(None, ())
        wandb.teardown()  # as at the end of a process
    kept = folders(directory)
    assert len(kept) == 3
    assert {read(folder)["run"][0].run_id for folder in kept} == {progress(directory)["run_id"]}
    told = [(row["_step"], row["round"], "local_only/personal/mean" in row) for one in kept for row in history(one)]
    assert told == [(0, 1, False), (1, 2, False), (2, 3, False), (3, 1, True)]


def test_runs_in_two_directories_are_two_wandb_runs(directory, tmp_path, online, configuration):
    for path in (directory, tmp_path / "other"):
        WeightsAndBiases().begin(path, configuration)
    assert progress(directory)["run_id"] != progress(tmp_path / "other")["run_id"]


def test_a_run_that_is_killed_repeats_only_the_round_that_may_be_lost(directory, online, configuration):
    tracker = WeightsAndBiases()
    assert tracker.begin(directory, configuration) == ["W&B: https://server/run"]
    tell(tracker, [1, 2, 3])
    # It is killed here, when the server had all.
    assert online.settings[0]["settings"].x_transaction_log_flush_interval == 0.1
    assert progress(directory)["last_rounds"] == {FEDERATED: 2}
    online.logged.clear()
    online.starting_step = 3
    tracker = WeightsAndBiases()
    tracker.begin(directory, configuration)
    tell(tracker, [1, 2, 3, 4])
    assert online.logged == [(3, 3), (4, 4)]
    assert len({arguments["id"] for arguments in online.settings}) == 1
    assert {arguments["resume"] for arguments in online.settings} == {"allow"}


def test_rounds_that_did_not_reach_the_server_are_logged_again(directory, online, configuration):
    tracker = WeightsAndBiases()
    tracker.begin(directory, configuration)
    tell(tracker, [1, 2, 3, 4, 5])
    tracker.end(None, ())
    online.logged.clear()
    online.starting_step = 3
    tracker = WeightsAndBiases()
    tracker.begin(directory, configuration)
    tell(tracker, [1, 2, 3, 4, 5, 6])
    # W&B drops what has a step that it had before.
    assert online.logged == [(5, 4), (6, 5), (7, 6)]


def test_a_run_that_others_continued_is_continued_after_them(directory, online, configuration):
    online.starting_step = 7
    tracker = WeightsAndBiases()
    tracker.begin(directory, configuration)
    tell(tracker, [1])
    assert online.logged == [(7, 1)]


def test_where_beginning_online_fails_the_run_is_recorded_offline(directory, configuration, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(tracking, "BEGIN_TIMEOUT", 0.5)
    tracker = WeightsAndBiases()
    [line] = tracker.begin(directory, configuration)
    assert line.startswith("W&B: recording offline (CommError: ")
    assert line.endswith(f"; to upload it later: wandb sync '{directory}/wandb'")
    tell(tracker, [1])
    tracker.end(None, ())
    [folder] = folders(directory)
    assert [row["round"] for row in history(folder)] == [1]
    assert read(folder)["run"][0].run_id == progress(directory)["run_id"]
    assert capfd.readouterr() == ("", "")


def test_an_upload_that_takes_too_long_is_given_up_with_the_command_to_finish_it(directory, online, configuration):
    def finish(exit_code):
        raise TimeoutError

    online.finish = finish
    tracker = WeightsAndBiases()
    tracker.begin(directory, configuration)
    with pytest.raises(
        TimeoutError, match=r"after 120 s; to do so later: wandb sync --include-online '.*/my run/wandb'"
    ):
        tracker.end(None, ())
    settings = online.settings[0]["settings"]
    assert (settings.finish_timeout, settings.finish_timeout_raises) == (120, True)


def test_a_disabled_tracker_starts_and_notes_nothing(directory, configuration, monkeypatch):
    monkeypatch.setattr(wandb, "init", None)
    tracker = WeightsAndBiases(mode="disabled")
    assert tracker.begin(directory, configuration) == ["W&B: disabled"]
    tell(tracker, [1])
    tracker.end(None, ())
    assert progress(directory)["last_rounds"] == {}


def test_a_name_is_taken_from_the_configuration_before_the_environment(directory, online, configuration, monkeypatch):
    monkeypatch.setenv("WANDB_NAME", "from outside")
    WeightsAndBiases().begin(directory, configuration)
    WeightsAndBiases(name="my name").begin(directory, configuration)
    assert [arguments["name"] for arguments in online.settings] == ["from outside", "my name"]


@pytest.mark.parametrize("told", ["online", None])
def test_online_is_chosen_with_a_key_and_a_network(monkeypatch, told):
    monkeypatch.setattr(tracking, "is_reachable", lambda url, proxy: url.startswith("https://") and proxy is None)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert choose(told) == Choice("online", "")


def test_offline_is_chosen_without_a_network(monkeypatch, capfd):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert choose(None) == Choice("offline", "wandb.example.org cannot be reached")
    assert capfd.readouterr() == ("", "")


def test_a_key_in_a_netrc_file_is_found(monkeypatch, tmp_path):
    monkeypatch.setattr(tracking, "is_reachable", lambda url, proxy: True)
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    (tmp_path / "home").mkdir()
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text(f"machine wandb.example.org login user password {KEY}\n")
    netrc.chmod(0o600)
    assert choose(None).mode == "online"


@pytest.mark.parametrize("key", [None, "too short"])
def test_without_a_key_the_network_is_not_tried_and_nobody_is_asked(monkeypatch, capfd, key):
    monkeypatch.setattr(tracking, "is_reachable", None)
    if key is not None:
        monkeypatch.setenv("WANDB_API_KEY", key)
    # Also where the user wants it online: W&B would ask for the key.
    for mode in (None, "online"):
        assert choose(mode) == Choice("offline", "there is no valid API key: wandb login")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("mode", "environment", "chosen"),
    [
        ("offline", "online", "offline"),
        ("disabled", "online", "disabled"),
        (None, "offline", "offline"),
        (None, "dryrun", "offline"),
        (None, "disabled", "disabled"),
        ("online", "offline", "online"),
        (None, "online", "online"),
    ],
)
def test_what_the_user_says_overrules_the_network(monkeypatch, mode, environment, chosen):
    monkeypatch.setattr(tracking, "is_reachable", None)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", environment)
    assert choose(mode).mode == chosen


def test_wandb_offline_in_its_settings_is_respected(monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    (tmp_path / "settings").write_text("[default]\nmode = offline\n")
    assert choose(None) == Choice("offline", "as configured")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("url", "environment", "proxy", "expected"),
    [
        ("https://server", {}, None, ("server", 443)),
        ("http://server:8080/path", {}, None, ("server", 8080)),
        ("https://server", {"HTTPS_PROXY": "http://proxy:3128"}, None, ("proxy", 3128)),
        ("https://server", {"HTTPS_PROXY": "proxy:3128"}, None, ("proxy", 3128)),
        ("https://server", {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "server"}, None, ("server", 443)),
        ("https://server", {"HTTPS_PROXY": "http://proxy:3128"}, "https://own", ("own", 443)),
    ],
)
def test_the_network_is_tried_once_at_the_server_or_its_proxy(monkeypatch, url, environment, proxy, expected):
    tried = []

    def connect(address, timeout):
        tried.append((address, timeout))
        return socket.socket()

    monkeypatch.setattr(socket, "create_connection", connect)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_reachable(url, proxy)
    assert tried == [(expected, 3.0)]


@pytest.mark.parametrize("url", ["https://server", "https://server:port"])
def test_a_server_that_refuses_or_has_no_valid_address_is_not_reachable(url):
    assert not is_reachable(url)


def test_a_network_that_does_not_answer_is_not_waited_for(monkeypatch):
    answer = threading.Event()

    def hang(address, timeout):
        answer.wait()
        raise OSError

    monkeypatch.setattr(socket, "create_connection", hang)
    monkeypatch.setattr(tracking, "NETWORK_TIMEOUT", 0.01)
    assert not is_reachable("https://server")
    answer.set()


def test_it_is_chosen_by_name_with_the_defaults_of_the_class():
    [component] = compose(["tracking=[wandb]"]).tracking
    assert vars(build(component, "tracking")) == vars(WeightsAndBiases())


def test_an_unknown_mode_is_answered_with_the_nearest_one():
    [component] = compose(["tracking=[{name: wandb, mode: ofline}]"]).tracking
    with pytest.raises(ConfigurationError, match=r"Unknown mode 'ofline'\. Did you mean 'offline'\?"):
        build(component, "tracking")


def test_tags_are_a_list():
    with pytest.raises(ConfigurationError, match=r"tags must be a list, for example \[one\], not 'one'"):
        WeightsAndBiases(tags="one")
