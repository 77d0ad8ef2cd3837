import pytest

from fedfuse.benchmark import whole_rounds
from fedfuse.benchmark.cells import MODELS, Cell
from fedfuse.benchmark.jobs import architecture_of, operations_of
from fedfuse.benchmark.whole_rounds import configure
from fedfuse.simulate import assemble


class Turns:
    """Notes what is told."""

    def __init__(self):
        self.told = []

    def ready(self, operations):
        self.told.append(operations)

    def finished(self):
        self.told.append("round")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("clients", [1, 7])
def test_a_run_has_the_samples_the_model_and_the_training_of_the_benchmark(model, clients):
    configuration = configure(Cell(model, "round", clients, 4), [])
    simulation = assemble(configuration)
    sizes = [tuple(map(len, (own.data.train, own.data.test))) for own in simulation.clients]
    assert sizes == [(200, 50)] * clients
    assert (len(simulation.settings.transfer), len(simulation.settings.global_test)) == (500, 100)
    assert {own.architecture.signature for own in simulation.clients} == {architecture_of(model).signature}
    assert configuration.num_rounds == 5
    assert configuration.strategy.name == "knfu"
    for training in (configuration.learn, configuration.absorb):
        assert (training.epochs, training.batch_size) == (1, 32)
        assert (training.optimizer.name, training.optimizer.lr, training.optimizer.momentum) == ("sgd", 0.1, 0.5)


def test_a_run_in_this_process_has_a_turn_a_round():
    cell, turns = Cell("mlp64", "round", 2, 1), Turns()
    whole_rounds.local(cell, turns)
    assert turns.told == [operations_of(cell), "round", "round"]


@pytest.mark.parametrize("name", ["local", "ray"])
def test_the_others_differ_in_the_engine_alone(name, monkeypatch):
    run = []
    monkeypatch.setattr(whole_rounds, "_run", lambda configuration, cell, turns: run.append(configuration))
    monkeypatch.setattr(whole_rounds, "num_cores", lambda: 3)
    getattr(whole_rounds, name)(Cell("mlp64", "round", 2, 1), Turns())
    (configuration,) = run
    assert (configuration.engine.name, configuration.engine.workers) == {"local": ("local", 1), "ray": ("ray", 3)}[name]


def test_all_workers_are_as_many_as_there_are_cores(monkeypatch):
    words = []
    monkeypatch.setattr(whole_rounds, "configure", lambda cell, engine: words.extend(engine))
    monkeypatch.setattr(whole_rounds, "_run", lambda configuration, cell, turns: None)
    monkeypatch.setattr(whole_rounds, "num_cores", lambda: 3)
    whole_rounds.workers(Cell("mlp64", "round", 2, 1), Turns())
    assert words == ["engine=local", "engine.workers=3"]
