import functools
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from states import states_in

from fedfuse import cli, composition, results
from fedfuse.assembly import load_federation
from fedfuse.audit.record import read_findings
from fedfuse.checkpoint import CLIENTS, FOLDER, SERVER
from fedfuse.client.state import ABSORBED, SHARED, Generation
from fedfuse.configuration import from_yaml
from fedfuse.engine.local_grid import LocalGrid
from fedfuse.engine.workers import Workers
from fedfuse.errors import ConfigurationError, TooFewClientsError
from fedfuse.messages import SHARE, Request
from fedfuse.privacy.accounting import zcdp_to_epsilon
from fedfuse.privacy.guarantee import rounded_up
from fedfuse.simulate import assemble, introduction, resume, simulate
from fedfuse.summary import SUMMARY_FILE, read_summary
from fedfuse.tracking.tracker import FEDERATED

BASE = ["num_clients=3", "num_rounds=3", "transfer.size=40", "engine.runner=sequential"]
BASE += ["learn.epochs=1", "learn.batch_size=64", "absorb.epochs=1", "model=[mlp_small,mlp_large]"]
STRATEGIES = {
    "knfu": ["strategy=knfu"],
    "fedmd-sampled": ["strategy=fedmd", "fraction=0.5", "transfer/policy=random_subset"],
    "fedproto": ["strategy=fedproto"],
    "fedavg": ["strategy=fedavg", "model=[mlp_small]"],
}


FEDERATIONS = {}


def federation_of(configuration):
    """Load the data of a configuration, once."""
    parts = ("data", "partition", "seed", "num_clients", "transfer", "split", "engine")
    key = repr([getattr(configuration, part) for part in parts])
    if key not in FEDERATIONS:
        FEDERATIONS[key] = load_federation(configuration)
    return FEDERATIONS[key]


@functools.cache
def configuration_of(*overrides):
    return composition.compose([*BASE, *overrides])


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    """Wait for no disk, load the same data once, and draw figures only where they are what is tested."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
    monkeypatch.setattr("fedfuse.simulate.load_federation", federation_of)
    if "with_figures" not in request.node.name:
        monkeypatch.setattr("fedfuse.conclusion.draw_figures", lambda directory, summary: [])
        monkeypatch.setattr("fedfuse.conclusion.write_report", lambda directory: directory)


def without_seconds(value):
    return {name: entry for name, entry in value.items() if name != "seconds"}


def outcome(directory):
    """All that a run leaves behind, but for times."""
    found = {}
    for folder in (directory, directory / results.LOCAL_ONLY):
        found[folder.name if folder != directory else "run"] = {
            "metrics": [without_seconds(line) for line in results.read_metrics(folder)],
            "seconds": [sorted(line["seconds"]) for line in results.read_metrics(folder)],
            "clients": read(folder / results.CLIENTS_FILE),
            "relevance": read(folder / results.RELEVANCE_FILE),
            "states": tensors_of(folder / FOLDER / CLIENTS),
        }
    found["guarantees"] = read(directory / "guarantees.json")
    found["summary"] = without_seconds(read_summary(directory))
    return found


def read(path):
    return path.read_bytes() if path.exists() else None


def tensors_of(path):
    return flat(states_in(path, range(3))) if path.exists() else None


def flat(value, prefix=""):
    """Nested dictionaries and lists as one dictionary, tensors as lists of numbers."""
    if isinstance(value, torch.Tensor):
        return {prefix: value.tolist()}
    if not isinstance(value, dict | list | tuple):
        return {prefix: value}
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    return {key: leaf for name, inner in entries for key, leaf in flat(inner, f"{prefix}/{name}").items()}


@functools.cache
def uninterrupted(*overrides):
    with tempfile.TemporaryDirectory() as directory:
        return outcome(simulate(configuration_of(*overrides), Path(directory) / "run"))


def stop_at(monkeypatch, target, number=1, after=False, only=lambda *arguments: True):
    """Interrupt the call of this number of a function, before or after it does its work."""
    owner, _, name = target.rpartition(".")
    owner = functools.reduce(getattr, owner.split(".")[1:], __import__(owner.split(".")[0]))
    work, calls = getattr(owner, name), []

    def stopping(*arguments, **keywords):
        calls.append(1) if only(*arguments) else None
        stop = only(*arguments) and len(calls) == number
        if stop and not after:
            raise KeyboardInterrupt
        result = work(*arguments, **keywords)
        if stop:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(owner, name, stopping)


def of_generation(round, phase):
    return lambda store, client_id, generation, state: generation == Generation(round, phase)


def server_file(path, contents):
    return path.name == SERVER and path.parent.parent.name != results.LOCAL_ONLY


def server_file_of_baseline(path, contents):
    return path.name == SERVER and path.parent.parent.name == results.LOCAL_ONLY


def in_baseline(directory, record, *others):
    return directory.name == results.LOCAL_ONLY


SAVE, COMMIT, REPLACE, APPEND = (
    "fedfuse.client.state_file.StateFile.save",
    "fedfuse.client.state_file.StateFile.commit",
    "fedfuse.checkpoint._replace",
    "fedfuse.results.append_round",
)
# Where a run is stopped: the arguments of stop_at, and how many rounds are in metrics.jsonl then.
STOPS = {
    "before-the-first-checkpoint": ({"target": COMMIT}, 0),
    "between-the-files-of-the-first-checkpoint": ({"target": REPLACE, "only": server_file}, 0),
    "in-the-first-learn": ({"target": "fedfuse.client.phases.learn"}, 0),
    "in-learn": ({"target": "fedfuse.client.phases.learn", "only": lambda c, s, round, *_: round == 2}, 1),
    "in-share-with-one-client-done": (
        {"target": SAVE, "after": True, "only": of_generation(2, SHARED)},
        1,
    ),
    "before-the-clients-are-written-after-share": ({"target": COMMIT, "number": 4}, 1),
    "in-fuse": ({"target": "fedfuse.waiting.Waiting.put", "only": lambda self, fused, round, encoding: round == 2}, 1),
    "between-the-files-after-share": ({"target": REPLACE, "number": 4, "only": server_file}, 1),
    "after-share": ({"target": REPLACE, "number": 4, "after": True, "only": server_file}, 1),
    "in-absorb-with-one-client-done": (
        {"target": SAVE, "after": True, "only": of_generation(2, ABSORBED)},
        1,
    ),
    "before-the-line-of-metrics": ({"target": "fedfuse.results.round_metrics", "number": 2}, 1),
    "after-the-line-of-metrics": ({"target": APPEND, "number": 2, "after": True}, 2),
    "between-the-files-after-absorb": ({"target": REPLACE, "number": 5, "only": server_file}, 2),
    "after-absorb": ({"target": REPLACE, "number": 5, "after": True, "only": server_file}, 2),
    "after-the-last-line-of-metrics": ({"target": APPEND, "number": 3, "after": True}, 3),
}
STOPS_IN_BASELINE = {
    "between-run-and-baseline": ({"target": REPLACE, "only": server_file_of_baseline}, 3),
    "in-baseline": ({"target": APPEND, "number": 2, "after": True, "only": in_baseline}, 3),
    "after-share-in-baseline": (
        {"target": REPLACE, "number": 4, "only": server_file_of_baseline},
        3,
    ),
    "before-the-summary": ({"target": "fedfuse.conclusion.write_summary"}, 3),
}


def check_stop(stop, overrides, directory, monkeypatch):
    arguments, num_recorded = stop
    with monkeypatch.context() as patch:
        stop_at(patch, **arguments)
        with pytest.raises(KeyboardInterrupt):
            simulate(configuration_of(*overrides), directory)
    assert len(results.read_metrics(directory)) == num_recorded
    assert not (directory / SUMMARY_FILE).exists()
    assert resume(directory) == directory
    assert outcome(directory) == uninterrupted(*overrides)


# Personal knowledge and its relevance with knfu; clients that are away and rows that are not asked for with fedmd.
ALL_STOPS = [(stop, strategy) for stop in STOPS for strategy in ("knfu", "fedmd-sampled")]
MAIN_STOPS = [
    (stop, strategy)
    for stop in ("in-learn", "between-the-files-after-share", "in-absorb-with-one-client-done", "after-absorb")
    for strategy in ("fedproto", "fedavg")
]


@pytest.mark.parametrize(("stop", "strategy"), ALL_STOPS + MAIN_STOPS)
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(stop, strategy, tmp_path, monkeypatch):
    overrides = (*STRATEGIES[strategy], "local_baseline=false")
    check_stop(STOPS[stop], overrides, tmp_path / "run", monkeypatch)


@pytest.mark.parametrize("stop", STOPS_IN_BASELINE)
def test_a_run_that_was_stopped_in_its_baseline_ends_as_if_it_had_not_been(stop, tmp_path, monkeypatch):
    check_stop(STOPS_IN_BASELINE[stop], tuple(STRATEGIES["fedavg"]), tmp_path / "run", monkeypatch)


def test_a_run_with_memory_that_is_stopped_after_every_phase_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    # Swing's clients remember what was fused last, and who is away catches up.
    overrides = ("strategy=fedmd", "privacy=[swing]", "fraction=0.5", "local_baseline=false")
    stops, directory = 0, tmp_path / "run"
    start = functools.partial(simulate, configuration_of(*overrides))
    while not (directory / SUMMARY_FILE).exists():
        with monkeypatch.context() as patch:
            stop_at(patch, REPLACE, number=2, after=True, only=server_file)
            try:
                start(directory)
            except KeyboardInterrupt:
                stops += 1
        start = resume
    assert stops == 6  # three rounds of two phases
    assert outcome(directory) == uninterrupted(*overrides)


# All that clients and the server can remember of the rounds before.
REMEMBERING = {
    "learning": [
        "strategy=fedmd",
        "objective=taid",
        "objective.num_steps=12",
        "transfer.lesson=[gap_mixture,margin]",
        "learn.rehearse=0.4",
        "absorb.rehearse=closed_form",
        "predictor=two_heads",
        "transfer/policy=class_balanced",
    ],
    "away": [
        "strategy=fedmd",
        "fraction=0.5",
        "learn.rehearse=0.4",
        "absorb.rehearse=0.3",
        "transfer/policy=pcoreset",
        "transfer.policy.budget=9",
    ],
}


@pytest.mark.parametrize("kind", REMEMBERING)
def test_a_run_whose_clients_rehearse_and_whose_server_remembers_goes_on_as_if_it_had_not_stopped(
    kind, tmp_path, monkeypatch
):
    overrides = (*REMEMBERING[kind], "num_rounds=4", "local_baseline=false")
    directory = simulate(configuration_of(*overrides, "num_rounds=2"), tmp_path / "between")
    resume(directory, num_rounds=4)
    assert outcome(directory) == uninterrupted(*overrides)

    # And after every phase of a round.
    stops, directory = 0, tmp_path / "within"
    start = functools.partial(simulate, configuration_of(*overrides))
    while not (directory / SUMMARY_FILE).exists():
        with monkeypatch.context() as patch:
            stop_at(patch, REPLACE, number=2, after=True, only=server_file)
            try:
                start(directory)
            except KeyboardInterrupt:
                stops += 1
        start = resume
    assert stops == 8  # four rounds of two phases
    assert outcome(directory) == uninterrupted(*overrides)


def test_what_a_run_remembers_is_learnt_from():
    overrides = (*REMEMBERING["learning"], "num_rounds=4", "local_baseline=false")
    states = uninterrupted(*overrides)["run"]["states"]
    memory = {name for name in states if "objective_state" in name}
    for name in ("transfer.0.t", "transfer.0.steps", "lesson.0.mixture", "rehearse.share"):
        assert sum(name in key for key in memory) >= 3
    for left_out in ("learn.rehearse=0.4", "absorb.rehearse=closed_form", "transfer/policy=class_balanced"):
        without = [word for word in overrides if word != left_out]
        assert uninterrupted(*without)["run"]["states"] != states


def test_a_run_that_was_killed_ends_as_if_it_had_not_been(tmp_path):
    overrides = ["num_rounds=60", "strategy=knfu", "local_baseline=false"]
    directory = tmp_path / "run"
    command = [sys.executable, "-P", "-m", "fedfuse", "run", *BASE, *overrides, f"output={directory}"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while len(results.read_metrics(directory)) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    done = len(results.read_metrics(directory))
    assert 2 <= done < 60
    assert not (directory / SUMMARY_FILE).exists()

    resume(directory, num_rounds=done + 2)
    assert outcome(directory) == uninterrupted(*overrides, f"num_rounds={done + 2}")


# Resume


def test_resume_of_a_finished_run_changes_nothing(tmp_path):
    directory = simulate(configuration_of("strategy=knfu"), tmp_path / "run")
    before, lines = outcome(directory), (directory / results.METRICS_FILE).read_bytes()
    (directory / SUMMARY_FILE).unlink()
    resume(directory)
    assert outcome(directory) == before
    assert (directory / results.METRICS_FILE).read_bytes() == lines
    resume(directory, num_rounds=3)
    assert (directory / results.METRICS_FILE).read_bytes() == lines


@pytest.mark.parametrize("strategy", ["fedmd-sampled", "fedavg"])
def test_resume_goes_on_to_a_later_round(strategy, tmp_path):
    overrides = STRATEGIES[strategy]
    directory = simulate(configuration_of(*overrides, "num_rounds=1"), tmp_path / "run")
    resume(directory, num_rounds=3)
    assert outcome(directory) == uninterrupted(*overrides)
    assert from_yaml((directory / "config.yaml").read_text()) == configuration_of(*overrides)
    assert len(results.read_metrics(directory / results.LOCAL_ONLY)) == 3


PRIVATE = ("strategy=knfu", "local_baseline=false", "secure_rng=false", "num_clients=2")
IN_WORKERS = {
    "open": (*STRATEGIES["knfu"], "local_baseline=false", "num_clients=3"),
    "private": (*PRIVATE, "model=[mlp_small]", "privacy=[{name: dp_sgd, noise_multiplier: 2, accountant: rdp}]"),
}


@pytest.mark.parametrize("kind", IN_WORKERS)
def test_workers_leave_what_one_process_leaves_and_any_number_goes_on_with_their_run(kind, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr("fedfuse.simulate.Workers", lambda *parts: started.append(parts[3]) or Workers(*parts))
    overrides = IN_WORKERS[kind]
    directory = simulate(configuration_of(*overrides, "num_rounds=1", "engine.workers=1"), tmp_path / "run")
    for num_rounds, workers in ((2, 2), (3, 1)):
        resume(directory, num_rounds, workers)
        assert from_yaml((directory / "config.yaml").read_text()).engine.workers == workers
    assert started == [2]
    assert outcome(directory) == uninterrupted(*overrides)


def test_resume_refuses_fewer_rounds_than_are_done(tmp_path):
    directory = simulate(configuration_of("strategy=local", "num_rounds=2"), tmp_path / "run")
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    with pytest.raises(ConfigurationError, match=r"^num_rounds=1, but 2 rounds are already done\.$"):
        resume(directory, num_rounds=1)
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


def test_private_training_tracks_what_is_spent_and_goes_on_where_it_was_stopped(tmp_path):
    overrides = (*PRIVATE, "privacy=[{name: dp_sgd, noise_multiplier: 2, accountant: rdp}]")
    directory = simulate(configuration_of(*overrides, "num_rounds=1"), tmp_path / "run")
    resume(directory, num_rounds=3)
    spent = [line["epsilon"]["record"] for line in results.read_metrics(directory)]
    assert 0 < spent[0] < spent[1] < spent[2]
    (guarantee,) = json.loads((directory / "guarantees.json").read_text())["protectors"]
    assert guarantee["epsilon"] == spent[2]
    whole = simulate(configuration_of(*overrides, "num_rounds=3"), tmp_path / "whole")
    last, expected = (results.read_metrics(one)[-1] for one in (directory, whole))
    assert (last["personal_mean"], last["epsilon"]) == (expected["personal_mean"], expected["epsilon"])


def test_resume_refuses_more_rounds_than_noise_was_calibrated_to(tmp_path):
    private = "privacy=[{name: dp_sgd, epsilon: 4, accountant: rdp}]"
    directory = simulate(configuration_of(*PRIVATE, private, "num_rounds=1"), tmp_path / "run")
    assert [line["epsilon"] for line in results.read_metrics(directory)] == [{"record": 4.0}]
    before = (directory / "config.yaml").read_text()
    with pytest.raises(ConfigurationError, match=r"^num_rounds=2, but the noise of dp_sgd was calibrated to 1 rounds"):
        resume(directory, num_rounds=2)
    assert (directory / "config.yaml").read_text() == before


def test_resume_of_a_stopped_run_to_fewer_rounds_than_it_had_before_it(tmp_path, monkeypatch):
    overrides = (*STRATEGIES["knfu"], "local_baseline=false")
    with monkeypatch.context() as patch:
        stop_at(patch, SAVE, after=True, only=of_generation(3, ABSORBED))
        with pytest.raises(KeyboardInterrupt):
            simulate(configuration_of(*overrides, "num_rounds=5"), tmp_path / "run")
    resume(tmp_path / "run", num_rounds=2)  # round 3 has been shared, and stays so
    assert len(results.read_metrics(tmp_path / "run")) == 2
    resume(tmp_path / "run", num_rounds=3)
    assert outcome(tmp_path / "run") == uninterrupted(*overrides)


def test_resume_of_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigurationError) as refused:
        resume(tmp_path)
    assert str(refused.value) == f"resume={tmp_path}: no config.yaml there, so this is no run's directory."
    with pytest.raises(ConfigurationError, match=r"no config\.yaml there"):
        resume(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_resume_of_a_run_of_an_earlier_version_is_one_line_and_changes_nothing(tmp_path, capsys):
    directory = simulate(configuration_of("strategy=knfu", "num_rounds=1", "local_baseline=false"), tmp_path / "run")
    (directory / FOLDER / CLIENTS).rename(directory / FOLDER / "clients.pt")
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert cli.main(["run", f"resume={directory}", "num_rounds=2"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"fedfuse: error: resume={directory}: that run is of an earlier version of fedfuse")
    assert printed.err.count("\n") == 1
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


def test_resume_without_a_checkpoint_starts_from_the_beginning(tmp_path):
    overrides = (*STRATEGIES["knfu"], "local_baseline=false")
    directory = simulate(configuration_of(*overrides), tmp_path / "run")
    for path in sorted(directory.rglob("*"), reverse=True):
        if path.name not in ("config.yaml", "guarantees.json"):
            path.rmdir() if path.is_dir() else path.unlink()
    resume(directory)
    assert outcome(directory) == uninterrupted(*overrides)


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_continue(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", list(sys.path))
    directory = tmp_path / "my run"
    with monkeypatch.context() as patch:
        stop_at(patch, APPEND, number=2)
        words = ["run", *BASE, "strategy=knfu", "local_baseline=false", f"output='{directory}'"]
        assert cli.main(words) == 130
    printed = capsys.readouterr()
    assert f"Interrupted. To continue: fedfuse run resume={directory}\n" in printed.out
    assert printed.err == "fedfuse: interrupted\n"
    assert (directory / FOLDER / SERVER).is_file()
    assert (directory / FOLDER / CLIENTS).is_file()
    assert cli.main(["run", f"resume={directory}"]) == 0
    assert outcome(directory) == uninterrupted("strategy=knfu", "local_baseline=false")


def fail(clients, states, *rest):
    raise RuntimeError(f"secrets of client {clients[0].client_id}")


def test_too_few_clients_end_the_command_with_1_and_the_way_to_continue(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", list(sys.path))
    directory = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("fedfuse.client.phases.learn", fail)
        words = ["run", *BASE, "strategy=knfu", "local_baseline=false", f"output={directory}"]
        assert cli.main(words) == 1
    printed = capsys.readouterr()
    assert f"Stopped. Once mended, continue with: fedfuse run resume={directory}\n" in printed.out
    assert printed.err.startswith("fedfuse: error: Round 1, share: 0 of 3 clients gave a valid reply, min_clients=1. ")
    assert printed.err.count("\n") == 1
    # The tracebacks are in the log of the run, and nowhere else.
    assert "secrets" not in printed.out + printed.err
    log = (directory / "run.log").read_text()
    for client in range(3):
        assert f"client {client} failed in round 1" in log
        assert f"RuntimeError: secrets of client {client}" in log
    assert cli.main(["run", f"resume={directory}"]) == 0
    assert outcome(directory) == uninterrupted("strategy=knfu", "local_baseline=false")


def test_the_log_is_as_before_when_the_run_is_over(tmp_path, monkeypatch):
    logger = logging.getLogger("fedfuse")
    monkeypatch.setattr(logger, "propagate", True)
    before = (list(logger.handlers), True)
    monkeypatch.setattr("fedfuse.client.phases.learn", fail)
    with pytest.raises(TooFewClientsError):
        simulate(configuration_of("strategy=local"), tmp_path / "run")
    assert (list(logger.handlers), logger.propagate) == before


# What a run leaves behind


def test_all_files_are_there_with_figures(tmp_path):
    directory = simulate(configuration_of("strategy=knfu", "num_rounds=2"), tmp_path / "run")
    files = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    assert files == {
        "config.yaml",
        "metrics.jsonl",
        "clients.csv",
        "summary.json",
        "relevance.npz",
        "guarantees.json",
        "software.json",
        "report.html",
        "checkpoint/server.pt",
        "checkpoint/clients.sqlite",
        "figures/accuracy_by_round.png",
        "figures/accuracy_by_client.png",
        "figures/label_distribution.png",
        "figures/relevance.png",
        "local_only/metrics.jsonl",
        "local_only/clients.csv",
        "local_only/checkpoint/server.pt",
        "local_only/checkpoint/clients.sqlite",
    }
    assert from_yaml((directory / "config.yaml").read_text()) == configuration_of("strategy=knfu", "num_rounds=2")

    assert json.loads((directory / "software.json").read_text()) == results.software()
    assert "This run has not ended" not in (directory / "report.html").read_text()

    simulation = assemble(configuration_of("strategy=knfu", "num_rounds=2"))
    summary = read_summary(directory)
    assert summary["num_rounds"] == 2
    assert summary["configuration"] == {
        "strategy": "knfu",
        "data": "digits",
        "partition": "dirichlet",
        "partition_arguments": {"alpha": 0.5, "min_samples": 20, "self_balancing": True},
        "model": ["mlp_small", "mlp_large"],
        "privacy": [],
        "num_clients": 3,
        "seed": 0,
    }
    for client, row in zip(simulation.clients, summary["clients"], strict=True):
        assert row["client_id"] == client.client_id
        assert row["model"] == client.architecture.name
        assert row["num_examples"] == len(client.data.train) == sum(row["label_counts"])
        assert row["label_counts"] == torch.bincount(client.data.train.labels, minlength=10).tolist()
    last = results.read_clients(directory)[2]
    alone = results.read_clients(directory / results.LOCAL_ONLY)[2]
    for row, own, local in zip(summary["clients"], last, alone, strict=True):
        assert row["personal_accuracy"] == own.personal_accuracy
        assert row["local_only_accuracy"] == local.personal_accuracy
    with np.load(directory / "relevance.npz") as relevance:
        assert set(relevance.files) == {"round_0001", "clients_0001", "round_0002", "clients_0002"}
        assert np.allclose(relevance["round_0002"].sum(1), 1)


def test_one_seed_gives_one_result_and_another_one_another_with_figures(tmp_path):
    overrides = ["strategy=knfu", "num_rounds=2", "privacy=[noise]"]
    first, second = (simulate(configuration_of(*overrides), tmp_path / name) for name in ("first", "second"))
    assert outcome(first) == outcome(second)
    timed = {"metrics.jsonl", "summary.json", "report.html"}
    for path in sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file()):
        if path.name not in timed and path.parent.name != FOLDER:
            assert (first / path).read_bytes() == (second / path).read_bytes(), path
    other = outcome(simulate(configuration_of(*overrides, "seed=1"), tmp_path / "other"))
    assert other["run"]["clients"] != outcome(first)["run"]["clients"]
    assert other["run"]["relevance"] != outcome(first)["run"]["relevance"]


def test_torchs_own_generator_neither_matters_nor_moves(tmp_path):
    torch.manual_seed(123)
    torch.rand(7)
    overrides = (*STRATEGIES["knfu"], "local_baseline=false")
    state = torch.get_rng_state()
    directory = simulate(configuration_of(*overrides), tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), state)
    assert outcome(directory) == uninterrupted(*overrides)


def test_an_output_that_is_not_empty_is_refused_and_untouched(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match=f"output={tmp_path} exists and is not empty. Use resume={tmp_path}"):
        simulate(configuration_of(f"output={tmp_path}"))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_output_names_the_directory_and_without_it_one_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = ["strategy=local", "num_rounds=1"]
    assert simulate(configuration_of(*overrides, "output=mine")) == Path("mine")
    made = simulate(configuration_of(*overrides))
    assert made.parent == Path("outputs/local/digits")
    assert outcome(made) == outcome(Path("mine"))


def test_parts_that_do_not_fit_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigurationError, match="Protector noise protects soft_labels; strategy local sends nothing"):
        simulate(configuration_of("strategy=local", "privacy=[noise]"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# The local-only baseline


def record_first_requests(monkeypatch):
    """Keep the requests of the first share phase of every stage of a run."""
    stages = []

    class Recording(LocalGrid):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            stages.append({})

        def send_and_receive(self, messages, *, timeout=None):
            messages = list(messages)
            if messages[0].metadata.message_type == SHARE and messages[0].metadata.group_id == "1":
                for message in messages:
                    stages[-1][message.metadata.dst_node_id - 1] = Request.from_record(message.content)
            return super().send_and_receive(messages, timeout=timeout)

    monkeypatch.setattr("fedfuse.simulate.LocalGrid", Recording)
    return stages


def test_the_baseline_of_fedavg_starts_from_the_same_weights(tmp_path, monkeypatch):
    stages = record_first_requests(monkeypatch)
    configuration = configuration_of(*STRATEGIES["fedavg"], "num_rounds=1")
    directory = simulate(configuration, tmp_path / "run")
    federated, local = stages
    simulation = assemble(configuration)
    initial = simulation.strategy.initial(simulation.server).common["weights"]
    for stage in (federated, local):
        for client in range(3):
            assert stage[client].fused_round == 0
            assert stage[client].fused["weights"].keys() == initial.keys()
            assert all(torch.equal(stage[client].fused["weights"][name], initial[name]) for name in initial)
    # Learning is the same, so what the clients shared in the first round are the local-only models.
    shared = states_in(directory / FOLDER / CLIENTS, range(3))
    alone = states_in(directory / results.LOCAL_ONLY / FOLDER / CLIENTS, range(3))
    for client in range(3):
        (_, phase, own), (_, _, local_own) = shared[client][0], alone[client][0]
        assert phase == SHARED
        assert flat(own["parameters"]) == flat(local_own["parameters"])


def test_the_baseline_of_others_starts_from_each_clients_own_weights(tmp_path, monkeypatch):
    stages = record_first_requests(monkeypatch)
    directory = simulate(configuration_of("strategy=knfu", "num_rounds=1"), tmp_path / "run")
    assert [{request.fused_round for request in stage.values()} for stage in stages] == [{-1}, {-1}]
    alone = outcome(simulate(configuration_of("strategy=local", "num_rounds=1"), tmp_path / "alone"))["run"]
    baseline = outcome(directory)[results.LOCAL_ONLY]
    assert baseline["clients"] == alone["clients"]
    assert baseline["states"] == alone["states"]


@pytest.mark.parametrize("protector", ["swing", "noise"])
def test_the_baseline_needs_no_protector_and_is_the_same_with_one(protector, tmp_path):
    overrides = ["strategy=knfu", "num_rounds=1"]
    protected = outcome(simulate(configuration_of(*overrides, f"privacy=[{protector}]"), tmp_path / "protected"))
    bare = outcome(simulate(configuration_of(*overrides), tmp_path / "bare"))
    assert protected[results.LOCAL_ONLY] == bare[results.LOCAL_ONLY]
    assert protected["run"]["relevance"] != bare["run"]["relevance"]


@pytest.mark.parametrize(
    ("strategy", "predictor"), [("fedmd", "two_heads"), ("fedfuse", "two_heads"), ("fedfuse", "fedfuse")]
)
def test_the_baseline_is_a_run_of_its_own_with_whatever_clients_would_learn_with(strategy, predictor):
    learning = ("learn.rehearse=0.5", "absorb.rehearse=0.5", "transfer.lesson=[margin]", "objective=taid")
    overrides = (*learning, f"predictor={predictor}", "num_rounds=2")
    federated, alone = uninterrupted(f"strategy={strategy}", *overrides), uninterrupted("strategy=local", *overrides)
    for kind in ("metrics", "clients"):
        assert federated[results.LOCAL_ONLY][kind] == alone["run"][kind]
        assert federated["run"][kind] != alone["run"][kind]


def test_there_is_no_baseline_where_none_is_wanted_or_the_run_is_one(tmp_path, monkeypatch):
    stages = record_first_requests(monkeypatch)
    simulate(configuration_of("strategy=knfu", "num_rounds=1", "local_baseline=false"), tmp_path / "without")
    simulate(configuration_of("strategy=local", "num_rounds=1"), tmp_path / "local")
    assert len(stages) == 2
    assert not (tmp_path / "without" / results.LOCAL_ONLY).exists()
    assert not (tmp_path / "local" / results.LOCAL_ONLY).exists()
    assert read_summary(tmp_path / "without")["spread"]["local_only"] == {"personal": None, "general": None}


# Who follows a run


TOLD = []


class Following:
    """A tracker that notes what it is told."""

    def begin(self, directory, configuration):
        TOLD.append(("begin", directory, configuration))
        return [f"follow it at {directory.name}"]

    def round_finished(self, metrics, stage):
        TOLD.append((stage, metrics))

    def end(self, summary, figures):
        TOLD.append(("end", summary, figures))


@pytest.fixture
def told():
    """What the tracker `Following` is told in a test."""
    TOLD.clear()
    return TOLD


def followed(parts, *overrides):
    """Compose a configuration with a tracker of the user's own."""
    (parts / "tracking").mkdir(parents=True, exist_ok=True)
    (parts / "tracking" / "mine.yaml").write_text(f"_target_: {__name__}.Following\n")
    return composition.compose([*BASE, "tracking=[mine]", *overrides], parts)


def rounds_of(directory):
    """The calls that tell a tracker of all rounds of a run and of its baseline."""
    return [
        (stage, metrics)
        for stage, folder in ((FEDERATED, directory), (results.LOCAL_ONLY, directory / results.LOCAL_ONLY))
        for metrics in results.read_metrics(folder)
    ]


def test_a_tracker_that_is_handed_over_is_told_beside_the_configured_one(told, tmp_path):
    own = []

    class Own(Following):
        def round_finished(self, metrics, stage):
            own.append((stage, metrics["round"]))

    configuration = followed(tmp_path / "parts", "strategy=local", "num_rounds=2")
    simulate(configuration, tmp_path / "run", (Own(),))
    assert own == [("federated", 1), ("federated", 2)]
    assert [(stage, metrics["round"]) for stage, metrics, *_ in told if stage == "federated"] == own


def test_a_tracker_is_told_of_the_beginning_every_round_of_both_stages_and_the_end(told, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("fedfuse.conclusion.draw_figures", lambda directory, summary: [directory / "a.png"])
    configuration = followed(tmp_path / "parts", "strategy=fedmd", "seed=3", "num_rounds=2")
    directory = simulate(configuration, tmp_path / "run")
    first, *rounds, last = told
    assert first == ("begin", directory, asdict(configuration))
    assert first[2]["seed"] == 3
    assert [(stage, metrics["round"]) for stage, metrics in rounds] == [
        ("federated", 1),
        ("federated", 2),
        ("local_only", 1),
        ("local_only", 2),
    ]
    assert rounds == rounds_of(directory)
    assert last == ("end", read_summary(directory), [directory / "a.png"])
    assert "follow it at run\n" in capsys.readouterr().out


def test_a_tracker_of_a_run_without_a_baseline_is_told_of_one_stage(told, tmp_path):
    directory = simulate(followed(tmp_path / "parts", "strategy=local", "num_rounds=2"), tmp_path / "run")
    assert [call[0] for call in told] == ["begin", "federated", "federated", "end"]
    assert told[1:3] == rounds_of(directory)


@pytest.mark.parametrize(
    ("stop", "rounds_told"),
    [
        ("in-the-first-learn", []),
        ("after-the-line-of-metrics", ["federated"]),
        ("after-absorb", ["federated"] * 2),
        ("in-baseline", ["federated"] * 3 + ["local_only"]),
    ],
)
def test_a_tracker_is_told_that_a_run_was_interrupted_and_of_all_rounds_by_its_resume(
    stop, rounds_told, told, tmp_path, monkeypatch
):
    configuration, directory = followed(tmp_path / "parts", "strategy=fedavg", "model=[mlp_small]"), tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, **(STOPS | STOPS_IN_BASELINE)[stop][0])
        with pytest.raises(KeyboardInterrupt):
            simulate(configuration, directory)
    assert [call[0] for call in told] == ["begin", *rounds_told, "end"]
    assert told[-1] == ("end", None, ())
    recorded = rounds_of(directory)
    told.clear()
    resume(directory)
    assert told[0] == ("begin", directory, asdict(configuration))
    assert told[1 : 1 + len(recorded)] == recorded
    assert {(stage, metrics["round"]) for stage, metrics in told[1:-1]} == {
        (stage, metrics["round"]) for stage, metrics in rounds_of(directory)
    }
    assert told[-1] == ("end", read_summary(directory), [])


def test_a_tracker_is_told_that_a_run_failed(told, tmp_path, monkeypatch):
    monkeypatch.setattr("fedfuse.client.phases.learn", fail)
    with pytest.raises(TooFewClientsError):
        simulate(followed(tmp_path / "parts", "strategy=local"), tmp_path / "run")
    assert told[1:] == [("end", None, ())]


def test_a_run_with_a_tracker_has_the_results_of_one_without(told, tmp_path):
    directory = simulate(followed(tmp_path / "parts", "strategy=knfu"), tmp_path / "run")
    assert outcome(directory) == uninterrupted("strategy=knfu")


# What a user is told


def test_introduction_says_what_runs_what_travels_and_what_is_promised(tmp_path, capsys):
    configuration = configuration_of("strategy=fedavg", "model=mlp_small", "seed=4", "num_rounds=1")
    lines = introduction(assemble(configuration))
    assert lines == [
        "fedavg on digits, dirichlet partition, seed 4",
        "3 clients, 40 transfer samples",
        "Models: mlp_small (4,810 parameters, 0.009 MFLOPs a sample)",
        "Clients send weights and get back weights; private facts told to the strategy: num_examples.",
        "No protector: what is sent is not noised, and nothing is guaranteed.",
    ]
    simulate(configuration, tmp_path / "run")
    printed = capsys.readouterr().out.splitlines()
    assert printed[:7] == [*lines, "fedavg: rounds 1 to 1", printed[6]]
    assert printed[6].startswith("round 1/1  personal ")
    assert "local-only: rounds 1 to 1" in printed

    lines = introduction(assemble(configuration_of("strategy=knfu", "privacy=[noise]")))
    assert lines[3:] == [
        "Clients send soft_labels and get back soft_labels; private facts told to the strategy: nothing.",
        "noise: gaussian noise of scale 0.05 on soft labels; guarantee: none",
    ]
    told = ["strategy=oracle", "share_facts=[label_counts]"]
    assert introduction(assemble(configuration_of(*told)))[3:] == [
        "Clients send soft_labels and get back soft_labels; private facts told to the strategy: label_counts.",
        "No protector: what is sent is not noised, and nothing is guaranteed.",
        "ORACLE: sees private label counts. An upper bound for ablations, not a method to compare others with.",
    ]
    assert introduction(assemble(configuration_of("strategy=local")))[3:] == [
        "Clients send nothing and get back nothing; private facts told to the strategy: nothing."
    ]


def test_resume_says_in_which_round_it_goes_on(tmp_path, capsys):
    directory = simulate(configuration_of("strategy=local", "num_rounds=1"), tmp_path / "run")
    capsys.readouterr()
    resume(directory, num_rounds=2)
    assert "local: rounds 2 to 2\n" in capsys.readouterr().out


def test_threads_follow_the_configuration(tmp_path, monkeypatch):
    numbers = []
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    simulate(configuration_of("strategy=local", "num_rounds=1", "engine.threads=2"), tmp_path / "run")
    assert numbers == [2]


def test_a_run_whose_clients_tell_no_metrics_is_summarised_without_them(tmp_path):
    overrides = ["strategy=knfu", "share_facts=[]", "num_rounds=1"]
    directory = simulate(configuration_of(*overrides), tmp_path / "run")
    (line,) = results.read_metrics(directory)
    assert (line["participants"], line["personal_mean"], line["general_mean"]) == (3, None, None)
    assert json.loads((directory / "summary.json").read_text())["spread"]["federated"] == {
        "personal": None,
        "general": None,
    }


# -- guarantees --------------------------------------------------------------------------------------------------------

GUARANTEED = ("strategy=fedmd", "privacy=[{name: clip, radius: 0.25},{name: gaussian, sigma: 2}]")


def test_what_is_guaranteed_is_said_before_the_run_tracked_by_round_and_written(tmp_path, capsys):
    directory = simulate(configuration_of(*GUARANTEED, "num_rounds=2"), tmp_path / "run")
    printed, metrics = capsys.readouterr().out, results.read_metrics(directory)
    written = json.loads((directory / "guarantees.json").read_text())
    clip, gaussian = written["protectors"]
    assert clip["epsilon"] is None
    assert (gaussian["unit"], gaussian["delta"]) == ("client", 1e-5)
    # 2 rounds of 40 soft labels that are at most 0.5 apart.
    assert gaussian["epsilon"] == pytest.approx(zcdp_to_epsilon(2 * 40 * 0.5**2 / (2 * 2**2), 1e-5))
    assert [line["epsilon"]["client"] for line in metrics] == [
        pytest.approx(zcdp_to_epsilon(rounds * 40 * 0.5**2 / (2 * 2**2), 1e-5)) for rounds in (1, 2)
    ]
    stated = f"guarantee: epsilon {rounded_up(gaussian['epsilon'])}, delta 1e-05 for one client"
    assert printed.index(stated) < printed.index("round 1/2")
    assert "drawn from the operating system's generator" in printed
    assert "epsilon" not in results.read_metrics(directory / results.LOCAL_ONLY)[0]


def test_where_a_guarantee_is_claimed_only_means_are_recorded_and_no_counts(tmp_path):
    directory = simulate(configuration_of(*GUARANTEED, "num_rounds=2"), tmp_path / "run")
    for recorded in (directory, directory / results.LOCAL_ONLY):
        (line, last) = results.read_metrics(recorded)
        assert line["personal_mean"] is not None
        assert line["personal_worst"] is line["general_std"] is None
        values = {vars(one)["personal_accuracy"] for one in results.read_clients(recorded)[2]}
        assert values == {None}
    summary = read_summary(directory)
    assert {(one["num_examples"], one["label_counts"], one["gain"]) for one in summary["clients"]} == {(None,) * 3}
    assert summary["spread"]["federated"]["personal"] == {
        "mean": results.read_metrics(directory)[-1]["personal_mean"],
        "std": None,
        "worst": None,
        "worst_10_percent": None,
    }
    assert summary["spread"]["local_only"]["general"]["mean"] == last["general_mean"]


def test_draws_of_the_operating_system_are_new_every_time_and_those_of_the_seed_are_not(tmp_path):
    def means(name, *overrides):
        overrides = (*GUARANTEED, "num_rounds=1", "local_baseline=false", *overrides)
        return results.read_metrics(simulate(configuration_of(*overrides), tmp_path / name))[0]["personal_mean"]

    seeded = [means(name, "privacy.secure_rng=false") for name in ("a", "b")]
    assert seeded[0] == seeded[1]
    written = json.loads((tmp_path / "a" / "guarantees.json").read_text())
    assert written["protectors"][1]["draws"].startswith("the run's seed: for simulation only")
    assert len({means(name) for name in ("c", "d", "e")}) > 1


def test_a_protected_run_that_was_stopped_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    overrides = (*GUARANTEED, "num_rounds=3", "privacy.secure_rng=false")
    stop_at(monkeypatch, "fedfuse.results.append_round", number=2)
    with pytest.raises(KeyboardInterrupt):
        simulate(configuration_of(*overrides), tmp_path / "run")
    monkeypatch.undo()
    assert outcome(resume(tmp_path / "run")) == uninterrupted(*overrides)


def test_more_rounds_than_before_cost_more_and_the_guarantee_says_so(tmp_path):
    def epsilon(directory):
        return json.loads((directory / "guarantees.json").read_text())["protectors"][1]["epsilon"]

    directory = simulate(configuration_of(*GUARANTEED, "num_rounds=1"), tmp_path / "run")
    before = epsilon(directory)
    resume(directory, 2)
    assert epsilon(directory) > before
    assert results.read_metrics(directory)[-1]["epsilon"]["client"] == epsilon(directory)


# Attacks


def test_a_run_with_an_attack_says_what_leaked_and_is_otherwise_a_run_with_planted_data(tmp_path, capsys):
    words = ["strategy=fedmd", "num_rounds=2", "audit=[{name: canary, canaries: 20, counts: [1], control_epochs: 2}]"]
    configuration = configuration_of(*words)
    assert introduction(assemble(configuration))[-1] == (
        "Audits: canary. What they planted is trained on and answered, so that accuracies are not those of a run "
        "without them."
    )
    directory = simulate(configuration, tmp_path / "run")
    findings = read_findings(directory)
    assert [one.subject for one in findings] == [
        "owner's model",
        "another client's student",
        "soft labels sent",
        "server model",
    ]
    assert {one.audit for one in findings} == {"canary"}
    printed = capsys.readouterr().out
    assert "80 transfer samples" in printed.replace("3 clients, ", "")
    assert "Audit canary attacks the run." in printed
    assert printed.index("Files:") < printed.index("What attacks found")
    counts = [client["num_examples"] for client in read_summary(directory)["clients"]]
    without = [len(client.train) for client in federation_of(configuration).clients]
    assert sorted(now - before for now, before in zip(counts, without, strict=True)) == [0, 0, 20]
    with pytest.raises(ConfigurationError, match="a run with audits goes in one piece"):
        resume(directory, num_rounds=3)


def test_attacks_on_soft_labels_see_all_that_was_sent_and_plant_their_pools_beside_the_canaries(tmp_path):
    attacks = [
        "{name: canary, canaries: 20, counts: [1], control_epochs: 2}",
        "{name: label_distribution, control_epochs: 2}",
        "{name: membership, clients: 2, shadows: 4, control_epochs: 2}",
    ]
    words = ["strategy=fedmd", "num_rounds=2", "privacy=[swing]", f"audit=[{','.join(attacks)}]"]
    configuration = configuration_of(*words)
    simulation = assemble(configuration)
    pools = simulation.audits[2].planted.pools
    assert [pool.client_id for pool in pools] == [0, 1]
    assert len(simulation.settings.transfer) == 80 + sum(len(pool.samples) for pool in pools)
    findings = read_findings(simulate(configuration, tmp_path / "run"))
    assert [one.subject for one in findings if one.audit == "label_distribution"] == ["soft labels sent"] * 2
    of_membership = [one.subject for one in findings if one.audit == "membership"]
    assert of_membership == ["soft labels sent"] * 2 + ["client's model"] * 2
    assert all(one.low <= one.value <= one.high for one in findings)


def test_attacks_see_what_the_server_saw_in_one_process_and_not_the_baseline(tmp_path, monkeypatch):
    seen, numbers = [], []

    def measure(self, evidence):
        seen.append(evidence)
        return ()

    monkeypatch.setattr("fedfuse.audit.canary.Canary.measure", measure)
    monkeypatch.setattr("fedfuse.simulate.choose_number", lambda *parts: numbers.append(1) or 1)
    words = ["strategy=knfu", "privacy=[noise]", "num_rounds=2", "audit=[canary]"]
    directory = simulate(configuration_of(*words), tmp_path / "run")
    assert len(seen) == 1
    assert len(numbers) == 1  # the baseline may have workers
    evidence = seen[0]
    assert read_findings(directory) == []
    assert {client: len(rounds) for client, rounds in evidence.shared.items()} == {0: 2, 1: 2, 2: 2}
    assert {client: len(rounds) for client, rounds in evidence.fused.items()} == {0: 2, 1: 2, 2: 2}
    assert evidence.seed == 0
    assert len(evidence.settings.protectors) == 1
    kept = states_in(directory / FOLDER / CLIENTS, evidence.states)
    for client, state in evidence.states.items():
        *_, newest = kept[client][-1]
        assert {name: tensor.tolist() for name, tensor in newest["parameters"].items()} == {
            name: tensor.tolist() for name, tensor in state.parameters.items()
        }
    assert (directory / results.LOCAL_ONLY / results.METRICS_FILE).exists()


def test_a_run_keeps_to_what_was_measured_when_it_began(tmp_path, monkeypatch):
    overrides = ("num_rounds=2", "model=mlp_small", "engine.runner=probe", "local_baseline=false")
    chosen = {}

    def probe(clients, settings):
        assert not chosen
        chosen.update({client.architecture.signature: "sequential" for client in clients})
        return chosen

    monkeypatch.setattr("fedfuse.engine.probe.probe", probe)
    directory = simulate(configuration_of(*overrides), tmp_path / "run")
    expected = results.read_metrics(
        simulate(configuration_of(*overrides, "engine.runner=sequential"), tmp_path / "sequential")
    )
    measured = results.read_metrics(directory)
    assert [line["personal_mean"] for line in measured] == [line["personal_mean"] for line in expected]
    resume(directory, 3)
    assert len(results.read_metrics(directory)) == 3
