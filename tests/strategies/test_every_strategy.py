"""Every shipped strategy is stopped and goes on, with clients that stay away and a part of the transfer set a round."""

import functools
import os
from dataclasses import replace

import pytest
from required import REQUIRED

from fedfuse import catalogue, results
from fedfuse.assembly import load_federation, make_strategy
from fedfuse.composition import compose
from fedfuse.simulate import resume, simulate

SHIPPED = sorted(set(catalogue.names("strategy", catalogue.folders())) - {"custom"})
BASE = ["num_clients=4", "fraction=0.75", "transfer.size=30", "transfer/policy=random_subset"]
BASE += ["learn.epochs=1", "learn.batch_size=64", "absorb.epochs=1", "local_baseline=false", "engine.runner=sequential"]


@functools.cache
def federation(labelled):
    return load_federation(compose([*BASE, f"transfer.labelled={labelled}"]))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Wait for no disk, deal the same data out once, and draw no figures."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
    monkeypatch.setattr("fedfuse.simulate.load_federation", lambda one: federation(one.transfer.labelled))
    monkeypatch.setattr("fedfuse.conclusion.draw_figures", lambda directory, summary: [])
    monkeypatch.setattr("fedfuse.conclusion.write_report", lambda directory: directory)


def configuration_of(name):
    """What the strategy needs, and two models where it allows them."""
    strategy = make_strategy(compose([*BASE, f"strategy={name}", *REQUIRED.get(name, [])]).strategy)
    return compose(
        [
            *BASE,
            f"strategy={name}",
            *REQUIRED.get(name, []),
            "num_rounds=3",
            f"model={'mlp_small' if strategy.one_architecture else '[mlp_small,mlp_large]'}",
            f"share_facts=[{','.join(sorted({*strategy.needs, 'test_metrics'}))}]",
            f"transfer.labelled={20 if strategy.needs_labels else 0}",
        ]
    )


def outcome(directory):
    """What was measured, but for times, of all clients too, and who listened to whom."""
    relevance = directory / results.RELEVANCE_FILE
    return {
        "metrics": [{**line, "seconds": None} for line in results.read_metrics(directory)],
        "clients": (directory / results.CLIENTS_FILE).read_bytes(),
        "relevance": relevance.read_bytes() if relevance.exists() else None,
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_a_run_that_was_stopped_after_two_rounds_goes_on_as_if_it_had_not_been(name, tmp_path):
    configuration = configuration_of(name)
    whole = outcome(simulate(configuration, tmp_path / "whole"))
    assert [(line["round"], line["participants"], line["left_out"]) for line in whole["metrics"]] == [
        (1, 3, []),
        (2, 3, []),
        (3, 3, []),
    ]
    stopped = simulate(replace(configuration, num_rounds=2), tmp_path / "stopped")
    assert outcome(stopped)["metrics"] == whole["metrics"][:2]
    assert outcome(resume(stopped, num_rounds=3)) == whole
