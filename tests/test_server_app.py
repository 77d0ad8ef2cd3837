import io
import json
import logging
import os
from dataclasses import asdict, fields

import pytest
import torch
from flwr.app import Context, RecordDict

from fedfuse import results, server_app
from fedfuse.assembly import configuration_of, deal_data
from fedfuse.checkpoint import CLIENTS, FOLDER, SERVER, open_client_states
from fedfuse.composition import compose
from fedfuse.configuration import Configuration, from_yaml, to_yaml
from fedfuse.data.federation import Shared, TransferSet
from fedfuse.data.files import write_shared
from fedfuse.engine.local_grid import LocalGrid
from fedfuse.errors import ConfigurationError, FedfuseError, TooFewClientsError
from fedfuse.knowledge import Fused
from fedfuse.privacy.swing import Swing
from fedfuse.server_app import Service, check_continues, prepare, serve
from fedfuse.simulate import assemble, resume, simulate
from fedfuse.strategy import FusionStrategy
from fedfuse.summary import SUMMARY_FILE, read_summary

BASE = (
    "num_clients=4 num_rounds=3 learn.epochs=1 absorb.epochs=1 transfer.size=40 model=[mlp_small] "
    "local_baseline=false engine.runner=sequential"
)


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    """Wait for no disk, deal the same data once, and draw figures and write reports only where they are tested."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
    monkeypatch.setattr("fedfuse.assembly.deal_data", deal_once)
    if "with_figures" not in request.node.name:
        monkeypatch.setattr("fedfuse.conclusion.draw_figures", lambda directory, summary: [])
        monkeypatch.setattr("fedfuse.conclusion.write_report", lambda directory: directory)


DEALT = {}


def deal_once(configuration):
    """Deal the data of a configuration, if it has not been yet."""
    parts = ("data", "partition", "seed", "num_clients", "transfer", "split")
    key = repr([getattr(configuration, part) for part in parts])
    if key not in DEALT:
        DEALT[key] = deal_data(configuration)
    return DEALT[key]


@pytest.fixture
def flower_log():
    """What Flower's own logger says; afterwards it is as it was before the app ran."""
    logger, text = logging.getLogger("flwr"), io.StringIO()
    handler = logging.StreamHandler(text)
    logger.addHandler(handler)
    yield text
    logger.removeHandler(handler)
    logger.removeFilter(server_app._without_traceback)


class Following:
    """A tracker that notes what it is told."""

    def __init__(self):
        self.told = []

    def begin(self, directory, configuration):
        self.told.append(("begin", directory, configuration))
        return ["follow it [there]"]

    def round_finished(self, metrics, stage):
        self.told.append((stage, metrics))

    def end(self, summary, figures):
        self.told.append(("end", summary, figures))


@pytest.fixture
def told(monkeypatch):
    """Let a tracker follow; what it is told."""
    following = Following()
    monkeypatch.setattr(server_app, "make_trackers", lambda configuration: [following])
    return following.told


def without_seconds(directory):
    lines = results.read_metrics(directory)
    for line in lines:
        assert line.pop("seconds")["round"] > 0
    return lines


def grid_of(simulation):
    return LocalGrid(simulation.clients, simulation.settings, simulation.configuration.engine.runner)


def start_app(overrides, grid=None):
    """Start the ServerApp as Flower does, with clients in this process."""
    context = Context(1, 1, {}, RecordDict(), {"overrides": overrides})
    server_app.app(grid=grid or grid_of(simulation_of(overrides)), context=context)


def start_app_and_stop_it(overrides, grid, monkeypatch, rounds=1):
    """Start the ServerApp, and interrupt it once so many rounds are recorded, before their checkpoint is written."""
    append, recorded = results.append_round, []

    def append_and_interrupt(*args, **options):
        recorded.append(append(*args, **options))
        if len(recorded) == rounds:
            raise KeyboardInterrupt
        return recorded[-1]

    with monkeypatch.context() as patch:
        patch.setattr("fedfuse.results.append_round", append_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            start_app(overrides, grid)


def service_of(simulation, directory, **changes):
    directory.mkdir(exist_ok=True)
    states = open_client_states(directory)
    grid = LocalGrid(simulation.clients, simulation.settings, simulation.configuration.engine.runner, store=states)
    return Service(
        **{
            "configuration": simulation.configuration,
            "grid": grid,
            "strategy": simulation.strategy,
            "server": simulation.server,
            "directory": directory,
            "promise": simulation.promise,
            "initial": simulation.strategy.initial(simulation.server),
            "commit_clients": states.commit,
        }
        | changes
    )


def simulation_of(overrides=BASE):
    return assemble(configuration_of({"overrides": overrides}))


@pytest.mark.parametrize("strategy", ["knfu", "fedavg", "fedmd fraction=0.5", "fedproto"])
def test_app_gives_the_results_of_simulate(strategy, tmp_path):
    overrides = f"{BASE} strategy={strategy}"
    start_app(f"{overrides} output={tmp_path / 'app'}")
    simulate(configuration_of({"overrides": overrides}), tmp_path / "simulated")

    assert len(without_seconds(tmp_path / "app")) == 3
    assert without_seconds(tmp_path / "app") == without_seconds(tmp_path / "simulated")
    for name in ("clients.csv", "guarantees.json"):
        assert (tmp_path / "app" / name).read_bytes() == (tmp_path / "simulated" / name).read_bytes()
    configuration = from_yaml((tmp_path / "app" / "config.yaml").read_text())
    assert configuration == configuration_of({"overrides": f"{overrides} output={tmp_path / 'app'}"})


def test_app_without_an_output_makes_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start_app(f"{BASE} strategy=local num_rounds=1")
    (directory,) = (tmp_path / "outputs" / "local" / "digits").iterdir()
    assert [line["round"] for line in results.read_metrics(directory)] == [1]


def test_app_refuses_an_output_that_is_not_empty(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="exists and is not empty"):
        start_app(f"{BASE} output={tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_app_refuses_parts_that_do_not_fit_before_it_writes_anything(tmp_path):
    with pytest.raises(ConfigurationError, match="Protector swing protects soft_labels"):
        start_app(f"{BASE} strategy=fedavg privacy=[swing] output={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()


def test_app_says_where_results_go_and_for_whom_it_waits(tmp_path, capsys):
    start_app(f"{BASE} strategy=local num_rounds=1 output={tmp_path / 'run'}")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"Results go to {tmp_path / 'run'}; waiting for 4 clients.", "local: rounds 1 to 1"]
    assert lines[2].startswith("round 1/1  personal ")
    assert lines[-1] == f"Files:       {tmp_path / 'run'}"


def test_app_leaves_all_files_of_a_finished_run_with_figures(tmp_path):
    directory = tmp_path / "run"
    start_app(f"{BASE} strategy=knfu num_rounds=2 model=[mlp_small,cnn_small] output={directory}")
    assert {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()} == {
        "config.yaml",
        "guarantees.json",
        "software.json",
        "metrics.jsonl",
        "clients.csv",
        "relevance.npz",
        "checkpoint/server.pt",
        "summary.json",
        "report.html",
        "figures/accuracy_by_round.png",
        "figures/relevance.png",
    }
    assert json.loads((directory / "software.json").read_text()) == results.software()
    summary = read_summary(directory)
    last = results.read_clients(directory)[2]
    assert [(row["client_id"], row["model"], row["personal_accuracy"]) for row in summary["clients"]] == [
        (client_id, model, last[client_id].personal_accuracy)
        for client_id, model in enumerate(["mlp_small", "cnn_small"] * 2)
    ]
    # What a client holds is its own business.
    assert {(row["num_examples"], row["label_counts"]) for row in summary["clients"]} == {(None, None)}
    report = (directory / "report.html").read_text()
    assert "<h1>knfu on digits</h1>" in report
    assert "This run has not ended" not in report


def test_app_tells_trackers_of_the_beginning_every_round_and_the_end(told, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("fedfuse.conclusion.draw_figures", lambda directory, summary: [directory / "a.png"])
    directory = tmp_path / "run"
    overrides = f"{BASE} num_rounds=2 output={directory}"
    start_app(overrides)
    lines = results.read_metrics(directory)
    assert told == [
        ("begin", directory, asdict(configuration_of({"overrides": overrides}))),
        ("federated", lines[0]),
        ("federated", lines[1]),
        ("end", read_summary(directory), [directory / "a.png"]),
    ]
    assert "follow it [there]\n" in capsys.readouterr().out


# What goes wrong


class CodeError(Exception):
    """An error that is no user's mistake."""


def fail_in_serve(error):
    def serve(service):
        raise error

    return serve


def log_as_flower_does(error):
    logging.getLogger("flwr").error("ServerApp raised an exception", exc_info=error)


def test_a_users_mistake_is_one_line_and_flower_adds_no_traceback(tmp_path, flower_log, capsys):
    with pytest.raises(ConfigurationError) as caught:
        start_app(f"{BASE} strategy=knfuu output={tmp_path / 'run'}", grid=object())
    log_as_flower_does(caught.value)
    assert capsys.readouterr().out == f"fedfuse: error: {caught.value}\n"
    assert str(caught.value).startswith("Unknown strategy 'knfuu'.")
    assert flower_log.getvalue() == "ServerApp raised an exception\n"
    assert not (tmp_path / "run").exists()


def test_an_error_of_a_run_is_shown_as_it_is_and_the_trackers_are_told_of_no_end(
    told, tmp_path, flower_log, monkeypatch, capsys
):
    error = TooFewClientsError(f"[bold]Round 2[/bold]: {'too few clients, ' * 20}that is all.")
    monkeypatch.setattr(server_app, "serve", fail_in_serve(error))
    with pytest.raises(TooFewClientsError):
        start_app(f"{BASE} output={tmp_path / 'run'}")
    log_as_flower_does(error)
    assert capsys.readouterr().out.splitlines()[-1] == f"fedfuse: error: {error}"
    assert flower_log.getvalue() == "ServerApp raised an exception\n"
    assert told[1:] == [("end", None, ())]
    assert not (tmp_path / "run" / SUMMARY_FILE).exists()


@pytest.mark.parametrize("error", [CodeError("of the code"), KeyboardInterrupt()])
def test_an_error_that_is_nobodys_mistake_keeps_its_traceback(error, told, tmp_path, flower_log, monkeypatch, capsys):
    monkeypatch.setattr(server_app, "serve", fail_in_serve(error))
    with pytest.raises(type(error)) as caught:
        start_app(f"{BASE} output={tmp_path / 'run'}")
    log_as_flower_does(caught.value)
    assert "fedfuse: error" not in capsys.readouterr().out
    assert "Traceback (most recent call last)" in flower_log.getvalue()
    assert "in serve" in flower_log.getvalue()
    assert told[1:] == [("end", None, ())]


# To go on with a run that was stopped


@pytest.mark.parametrize(("strategy", "rounds"), [("knfu", 1), ("knfu", 2), ("fedavg", 2), ("fedmd fraction=0.5", 1)])
def test_a_stopped_app_goes_on_where_it_was(strategy, rounds, tmp_path, monkeypatch, capsys):
    overrides, directory = f"{BASE} strategy={strategy}", tmp_path / "my run"
    start_app(f"{overrides} output={tmp_path / 'whole'}")

    grid = grid_of(simulation_of(overrides))  # clients keep their states themselves
    start_app_and_stop_it(f"{overrides} 'output=\"{directory}\"'", grid, monkeypatch, rounds)
    assert len(results.read_metrics(directory)) == rounds
    assert not (directory / SUMMARY_FILE).exists()
    run = torch.load(directory / FOLDER / SERVER, weights_only=True)["rounds"]["run"]
    capsys.readouterr()
    start_app(f"{overrides} 'resume={directory}'", grid)

    assert f"Results go to {directory}; waiting for 4 clients.\n" in capsys.readouterr().out
    assert without_seconds(directory) == without_seconds(tmp_path / "whole")
    assert (directory / "clients.csv").read_bytes() == (tmp_path / "whole" / "clients.csv").read_bytes()
    assert torch.load(directory / FOLDER / SERVER, weights_only=True)["rounds"]["run"] == run
    assert read_summary(directory)["clients"] == read_summary(tmp_path / "whole")["clients"]
    assert not (tmp_path / "outputs").exists()


def test_an_app_may_go_on_to_a_later_round_and_says_in_which_it_begins(tmp_path, capsys):
    overrides, directory = f"{BASE} strategy=knfu", tmp_path / "run"
    grid = grid_of(simulation_of(overrides))
    start_app(f"{overrides} num_rounds=1 output={directory}", grid)
    capsys.readouterr()
    start_app(f"{overrides} num_rounds=3 resume={directory}", grid)
    assert "knfu: rounds 2 to 3\n" in capsys.readouterr().out
    assert [line["round"] for line in results.read_metrics(directory)] == [1, 2, 3]
    assert from_yaml((directory / "config.yaml").read_text()).num_rounds == 3
    assert read_summary(directory)["num_rounds"] == 3


def test_trackers_of_a_resumed_app_are_told_of_all_rounds(told, tmp_path, monkeypatch):
    overrides, directory = f"{BASE} num_rounds=2", tmp_path / "run"
    grid = grid_of(simulation_of(overrides))
    start_app_and_stop_it(f"{overrides} output={directory}", grid, monkeypatch)
    (first,) = results.read_metrics(directory)
    assert told[1:] == [("end", None, ())]  # the interrupt came before anybody was told of the round
    told.clear()
    start_app(f"{overrides} resume={directory}", grid)
    again, second = results.read_metrics(directory)
    assert [call[0] for call in told] == ["begin", "federated", "federated", "federated", "end"]
    assert [metrics for _, metrics in told[1:-1]] == [first, again, second]
    assert told[-1] == ("end", read_summary(directory), [])


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("others", "told_to_the_user"),
    [
        ("seed=1", "that run has another seed; give the overrides that it was started with."),
        ("num_rounds=1", "num_rounds=1, but 2 rounds are already done."),
    ],
)
def test_an_app_that_cannot_go_on_changes_nothing(others, told_to_the_user, told, tmp_path, capsys):
    directory = tmp_path / "run"
    start_app(f"{BASE} strategy=local num_rounds=2 output={directory}")
    before = contents(directory)
    capsys.readouterr()
    told.clear()
    with pytest.raises(ConfigurationError):
        start_app(f"{BASE} strategy=local num_rounds=2 {others} resume={directory}")
    output = capsys.readouterr().out
    assert output.startswith("fedfuse: error: ")
    assert output.endswith(f"{told_to_the_user}\n")
    assert contents(directory) == before
    assert told == []


# What may be continued with what

CHANGES = {
    "seed": ["seed=1"],
    "num_clients": ["num_clients=5"],
    "num_rounds": ["num_rounds=9"],
    "fraction": ["fraction=0.5"],
    "min_clients": ["min_clients=2"],
    "local_baseline": ["local_baseline=true"],
    "output": ["output=elsewhere"],
    "share_facts": ["share_facts=[]"],
    "secure_rng": ["privacy.secure_rng=false"],
    "data": ["data=custom", "data._target_=own.load"],
    "partition": ["partition=iid"],
    "split": ["split.test=0.3"],
    "transfer": ["transfer.size=41"],
    "model": ["model=[mlp_large]"],
    "learn": ["learn.epochs=2"],
    "absorb": ["absorb.epochs=2"],
    "objective": ["objective.temperature=9"],
    "predictor": ["predictor.share=mine"],
    "strategy": ["strategy=local"],
    "privacy": ["privacy=[swing]"],
    "engine": ["engine.timeout=9"],
    "encoding": ["encoding=float16"],
    "tracking": ["tracking=[tensorboard]"],
    "corruption": ["corruption=[noisy_labels]"],
    "audit": ["audit=[canary]"],
}


def recorded(directory, rounds=0):
    """Write what `check_continues` looks at."""
    directory.mkdir(exist_ok=True)
    (directory / "config.yaml").write_text(to_yaml(configuration_of({"overrides": BASE})))
    (directory / results.METRICS_FILE).write_text("".join(f'{{"round": {n + 1}}}\n' for n in range(rounds)))


def test_every_part_of_a_configuration_is_either_free_to_change_or_not():
    assert {field.name for field in fields(Configuration)} == set(CHANGES)
    assert {"num_rounds", "engine", "tracking", "output", "local_baseline"} == server_app.FREE_TO_CHANGE


@pytest.mark.parametrize("name", CHANGES)
def test_a_run_is_continued_only_with_what_does_not_change_its_results(name, tmp_path):
    recorded(tmp_path)
    (tmp_path / "parts" / "predictor" / "answer").mkdir(parents=True)
    (tmp_path / "parts" / "predictor" / "answer" / "mine.yaml").write_text("_target_: own.Mine\n")
    before, changed = (compose([*BASE.split(), *others], tmp_path / "parts") for others in ([], CHANGES[name]))
    assert [field.name for field in fields(before) if getattr(before, field.name) != getattr(changed, field.name)] == [
        name
    ]
    check_continues(tmp_path, before)
    if name in ("num_rounds", "engine", "tracking", "output", "local_baseline"):
        check_continues(tmp_path, changed)
        return
    with pytest.raises(ConfigurationError) as refused:
        check_continues(tmp_path, changed)
    assert str(refused.value) == (
        f"resume={tmp_path}: that run has another {name}; give the overrides that it was started with."
    )


def test_a_run_is_continued_up_to_no_more_rounds_than_noise_was_calibrated_to(tmp_path):
    overrides = f"{BASE} 'privacy=[{{name: dp_sgd, epsilon: 4}}]'"
    (tmp_path / "config.yaml").write_text(to_yaml(configuration_of({"overrides": overrides})))
    for num_rounds in (2, 3):
        check_continues(tmp_path, configuration_of({"overrides": f"{overrides} num_rounds={num_rounds}"}))
    with pytest.raises(ConfigurationError, match=r"^num_rounds=4, but the noise of dp_sgd was calibrated to 3 rounds"):
        check_continues(tmp_path, configuration_of({"overrides": f"{overrides} num_rounds=4"}))


def test_a_run_is_continued_up_to_no_round_that_is_past(tmp_path):
    recorded(tmp_path, rounds=2)
    for num_rounds in (2, 3):
        check_continues(tmp_path, configuration_of({"overrides": f"{BASE} num_rounds={num_rounds}"}))
    with pytest.raises(ConfigurationError, match=r"^num_rounds=1, but 2 rounds are already done\.$"):
        check_continues(tmp_path, configuration_of({"overrides": f"{BASE} num_rounds=1"}))


def test_a_directory_without_a_run_is_not_continued(tmp_path):
    for directory in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigurationError) as refused:
            check_continues(directory, configuration_of({"overrides": BASE}))
        assert str(refused.value) == f"resume={directory}: no config.yaml there, so this is no run's directory."


# All that a server needs


def test_a_server_is_prepared_with_all_its_parts(told):
    configuration = configuration_of({"overrides": f"{BASE} strategy=fedmd privacy=[swing]"})
    parts = prepare(configuration)
    expected = assemble(configuration)
    assert type(parts.strategy) is type(expected.strategy)
    assert parts.server.transfer_digest == expected.server.transfer_digest
    assert parts.server.architectures.keys() == expected.server.architectures.keys()
    assert [type(protector) for protector in parts.settings.protectors] == [Swing]
    assert [type(tracker) for tracker in parts.trackers] == [Following]
    assert told == []


def test_a_server_needs_no_data_but_the_transfer_set(tmp_path, monkeypatch):
    write_shared(tmp_path / "all.npz", Shared(TransferSet(torch.rand(7, 1, 8, 8)), None, tuple("0123456789")))
    monkeypatch.setattr("fedfuse.data.sources.digits.digits", None)
    parts = prepare(configuration_of({"overrides": f"{BASE} transfer.path={tmp_path / 'all.npz'}"}))
    assert len(parts.server.transfer_inputs) == 7
    assert parts.settings.global_test is None


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ("strategy=fedavg model=[mlp_small,cnn_small]", "Strategy fedavg needs one architecture for all clients"),
        ("strategy=fedavg privacy=[swing]", "Protector swing protects soft_labels; strategy fedavg sends weights"),
        ("transfer.path=nowhere.npz", "There is no file nowhere.npz"),
        ("transfer.size=5000", "transfer.size=5000 must be at least 1 and less than"),
    ],
)
def test_a_server_whose_parts_do_not_fit_is_not_prepared(others, message):
    with pytest.raises(ConfigurationError, match=message):
        prepare(configuration_of({"overrides": f"{BASE} {others}"}))


# serve


def test_serve_goes_on_where_a_checkpoint_stands(tmp_path):
    simulate(configuration_of({"overrides": f"{BASE} num_rounds=4"}), tmp_path / "whole")

    serve(service_of(simulation_of(f"{BASE} num_rounds=2"), tmp_path / "parts"))
    assert [line["round"] for line in results.read_metrics(tmp_path / "parts")] == [1, 2]
    finished = []
    serve(
        service_of(simulation_of(f"{BASE} num_rounds=4"), tmp_path / "parts", round_finished=finished.append),
    )
    assert [line["round"] for line in finished] == [3, 4]
    assert without_seconds(tmp_path / "parts") == without_seconds(tmp_path / "whole")


class Remembering(FusionStrategy):
    """Listens to one client after another, in the order that it remembers."""

    sends = returns = frozenset({"soft_labels"})

    def __init__(self):
        self.turns = []
        self.total = torch.zeros(40, 10)

    def relate(self, knowledge):
        self.turns.append(knowledge.round)
        self.total += knowledge.soft_labels.sum(0)
        return torch.eye(len(knowledge)).roll(len(self.turns), 1)

    def state_dict(self):
        return {"turns": self.turns, "total": self.total}

    def load_state_dict(self, state):
        self.turns, self.total = list(state["turns"]), state["total"]


def test_what_a_strategy_remembers_is_in_the_checkpoint(tmp_path):
    whole = Remembering()
    serve(service_of(simulation_of(f"{BASE} num_rounds=4"), tmp_path / "whole", strategy=whole))

    serve(service_of(simulation_of(f"{BASE} num_rounds=2"), tmp_path / "parts", strategy=Remembering()))
    resumed = Remembering()
    serve(service_of(simulation_of(f"{BASE} num_rounds=4"), tmp_path / "parts", strategy=resumed))
    assert resumed.turns == whole.turns == [1, 2, 3, 4]
    assert torch.equal(resumed.total, whole.total)
    assert without_seconds(tmp_path / "parts") == without_seconds(tmp_path / "whole")


def test_a_run_stopped_while_it_wrote_its_first_checkpoint_starts_from_the_beginning(tmp_path):
    serve(service_of(simulation_of(), tmp_path / "whole"))
    serve(service_of(simulation_of(), tmp_path / "stopped"))
    (tmp_path / "stopped" / FOLDER / SERVER).unlink()  # the clients' file was written before it
    for name in (results.METRICS_FILE, results.CLIENTS_FILE, results.RELEVANCE_FILE):
        (tmp_path / "stopped" / name).unlink()
    serve(service_of(simulation_of(), tmp_path / "stopped"))
    assert without_seconds(tmp_path / "stopped") == without_seconds(tmp_path / "whole")


def test_a_checkpoint_that_cannot_be_read_is_an_error_and_stays(tmp_path):
    serve(service_of(simulation_of(), tmp_path / "run"))
    (tmp_path / "run" / FOLDER / SERVER).write_bytes(b"torn")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        serve(service_of(simulation_of(), tmp_path / "run"))
    assert (tmp_path / "run" / FOLDER / SERVER).read_bytes() == b"torn"
    assert len(results.read_metrics(tmp_path / "run")) == 3


class OneInitial(FusionStrategy):
    """Gives every client soft labels of its own to start from, and never anything else."""

    sends = returns = frozenset({"soft_labels"})

    def initial(self, server):
        uniform = torch.full((4, 40, 10), 0.1)
        tensors = {"soft_labels": uniform, "mask": torch.ones(4, 40, dtype=torch.bool)}
        return Fused.for_each(range(4), soft_labels=tensors)

    def fuse(self, knowledge, server):
        return Fused()


def test_initial_knowledge_is_laid_out_once_in_a_run_and_not_again_by_a_resume(tmp_path):
    for num_rounds in (1, 2):
        simulation, strategy = simulation_of(f"{BASE} num_rounds={num_rounds}"), OneInitial()
        initial = strategy.initial(simulation.server)
        serve(service_of(simulation, tmp_path / "run", strategy=strategy, initial=initial))
        assert strategy.rounds.waiting.absorbed == dict.fromkeys(range(4), 0)
        assert strategy.rounds.waiting.personal == {}


def test_too_few_connected_clients_are_named_after_the_timeout(tmp_path, monkeypatch):
    monkeypatch.setattr("fedfuse.roster.SECONDS_BETWEEN_LOOKS", 0.001)
    simulation = simulation_of(f"{BASE} engine.timeout=0.001")
    grid = LocalGrid(simulation.clients[:3], simulation.settings)
    with pytest.raises(FedfuseError, match=r"Only 3 of 4 clients connected within 0\.001 s"):
        serve(service_of(simulation, tmp_path / "run", grid=grid))


def test_a_strategy_that_was_never_attached_says_so():
    with pytest.raises(FedfuseError, match="not attached to a run"):
        Remembering().start(grid=None)


# guarantees.json


def test_guarantees_state_each_protector_and_claim_no_differential_privacy(tmp_path):
    start_app(f"{BASE} num_rounds=1 privacy=[swing,noise] output={tmp_path / 'run'}")
    written = json.loads((tmp_path / "run" / "guarantees.json").read_text())
    assert [protector["protector"] for protector in written["protectors"]] == ["swing", "noise"]
    for protector in written["protectors"]:
        assert (protector["unit"], protector["adversary"]) == ("none", "none")
        assert (protector["epsilon"], protector["delta"]) == (None, None)
    assert written["protectors"][1]["mechanism"] == "gaussian noise of scale 0.05 on soft labels"
    assert written["differential_privacy"] is False
    assert written["summary"] == "No differential privacy is guaranteed."


def test_a_server_says_before_the_run_what_is_promised(tmp_path, capsys):
    start_app(f"{BASE} num_rounds=1 'privacy=[{{name: gaussian, sigma: 1}}]' output={tmp_path / 'run'}")
    printed = capsys.readouterr().out
    assert printed.index("gaussian: discrete Gaussian noise of deviation 1") < printed.index("round 1/1")
    assert "for one client against everyone who sees what it sends" in printed
    assert results.read_metrics(tmp_path / "run")[0]["personal_worst"] is None


def test_a_run_whose_clients_keep_their_own_state_is_not_continued_with_fresh_ones(tmp_path):
    directory = simulate(configuration_of({"overrides": BASE}), tmp_path / "run")
    (directory / FOLDER / CLIENTS).unlink()
    with pytest.raises(ConfigurationError, match="was not made by this kind of engine"):
        resume(directory, num_rounds=4)


def test_attacks_are_refused_where_clients_are_elsewhere():
    with pytest.raises(ConfigurationError, match=r"audit=\[canary\] looks into clients in one process"):
        server_app.prepare(compose(["audit=[canary]"]))
