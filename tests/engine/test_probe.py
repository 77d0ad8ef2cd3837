import json

import pytest
import torch

from fedfuse.engine import probe as module
from fedfuse.engine.probe import REPEATS, RUNNERS_FILE, STEPS, probe, probed_once
from fedfuse.errors import ConfigurationError


class Clock:
    """Time that only passes while clients are trained: so many seconds a call of each runner."""

    def __init__(self, monkeypatch, sequential, stacked):
        self.now, self.trained = 0.0, []
        for runner, seconds in (("sequential", sequential), ("stacked", stacked)):
            self.slow_down(monkeypatch, runner, iter(seconds))

    def slow_down(self, monkeypatch, runner, seconds):
        owner = getattr(module, runner)
        fit = owner.fit

        def slow_fit(jobs):
            self.now += next(seconds)
            self.trained.append((runner, len(jobs), [len(job.streams["private"].plan) for job in jobs]))
            return fit(jobs)

        monkeypatch.setattr(owner, "fit", slow_fit)

    def __call__(self):
        return self.now


def test_the_faster_way_is_named_for_each_architecture(monkeypatch, make_clients, make_settings):
    clients = make_clients(("small", "cnn"))
    small, cnn = (client.architecture.signature for client in clients[:2])
    clock = Clock(monkeypatch, [9, 3, 2, 4, 1, 1, 1, 1], [0, 2.5, 2.2, 2.1, 9, 0.9, 5, 5])
    # The warm-up does not count, and of the rest the shortest does: 2 against 2.1, and 1 against 0.9.
    assert probe(clients, make_settings(), clock) == {small: "sequential", cnn: "stacked"}


def test_all_clients_of_an_architecture_are_trained_for_two_steps_and_what_they_learn_is_thrown_away(
    monkeypatch, make_clients, make_settings
):
    clients, settings = make_clients(("small",)), make_settings()
    before = [client.data.train.inputs.clone() for client in clients]
    clock = Clock(monkeypatch, [1] * 4, [1] * 4)
    probe(clients, settings, clock)
    assert [runner for runner, *_ in clock.trained] == ["sequential"] * (1 + REPEATS) + ["stacked"] * (1 + REPEATS)
    for _, number, steps in clock.trained:
        assert number == len(clients)
        assert max(steps) == STEPS
    assert all(torch.equal(client.data.train.inputs, own) for client, own in zip(clients, before, strict=True))


def test_what_was_measured_once_is_not_measured_again(monkeypatch, make_clients, make_settings, tmp_path):
    clients, settings = make_clients(("small",)), make_settings()
    signature = clients[0].architecture.signature
    chosen = probed_once(clients, settings, tmp_path / "checkpoint")
    assert chosen.keys() == {signature}
    path = tmp_path / "checkpoint" / RUNNERS_FILE
    assert json.loads(path.read_text()) == chosen
    other = {signature: {"sequential": "stacked", "stacked": "sequential"}[chosen[signature]]}
    path.write_text(json.dumps(other))
    assert probed_once(clients, settings, tmp_path / "checkpoint") == other
    path.write_text("{")
    with pytest.raises(ConfigurationError, match="cannot be read; delete it to measure again"):
        probed_once(clients, settings, tmp_path / "checkpoint")
