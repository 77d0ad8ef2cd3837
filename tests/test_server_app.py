import json

import pytest
import torch
from flwr.app import Context, RecordDict

from fedfuse import results, server_app
from fedfuse.assembly import configuration_of
from fedfuse.checkpoint import CLIENTS, FOLDER, SERVER
from fedfuse.configuration import from_yaml
from fedfuse.engine.local_grid import LocalGrid
from fedfuse.errors import ConfigurationError, FedfuseError
from fedfuse.knowledge import Fused
from fedfuse.privacy.guarantee import Guarantee
from fedfuse.privacy.noise import Noise
from fedfuse.privacy.swing import Swing
from fedfuse.server_app import Service, guarantees_json, serve
from fedfuse.simulate import assemble, resume, simulate
from fedfuse.strategy import FusionStrategy

BASE = (
    "num_clients=4 num_rounds=3 learn.epochs=1 absorb.epochs=1 transfer.size=40 model=[mlp_small] "
    "local_baseline=false engine.runner=sequential"
)


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    monkeypatch.setattr("fedfuse.simulate.draw_figures", lambda directory, summary: [])


def without_seconds(directory):
    lines = results.read_metrics(directory)
    for line in lines:
        assert line.pop("seconds")["round"] > 0
    return lines


def grid_of(simulation):
    return LocalGrid(simulation.clients, simulation.settings, simulation.configuration.engine.runner)


def start_app(overrides):
    """Start the ServerApp as Flower does, with clients in this process."""
    simulation = assemble(configuration_of({"overrides": overrides}))
    context = Context(1, 1, {}, RecordDict(), {"overrides": overrides})
    server_app.app(grid=grid_of(simulation), context=context)


def service_of(simulation, directory, **changes):
    grid = grid_of(simulation)
    directory.mkdir(exist_ok=True)
    return Service(
        **{
            "configuration": simulation.configuration,
            "grid": grid,
            "strategy": simulation.strategy,
            "server": simulation.server,
            "directory": directory,
            "initial": simulation.strategy.initial(simulation.server),
            "client_states": grid.state_dict,
            "load_client_states": grid.load_state_dict,
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
    assert (tmp_path / "run" / "guarantees.json").read_text() == guarantees_json((Swing(), Noise()))


def test_guarantees_without_protectors():
    assert json.loads(guarantees_json(())) == {
        "protectors": [],
        "differential_privacy": False,
        "summary": "No differential privacy is guaranteed.",
    }


def test_an_accounted_guarantee_is_told_apart():
    class Accounted:
        def guarantee(self):
            return Guarantee("dp", "Gaussian mechanism", "client", "the server", epsilon=2.0, delta=1e-5)

    written = json.loads(guarantees_json((Noise(), Accounted())))
    assert written["differential_privacy"] is True
    assert written["summary"] == "See protectors."
    assert written["protectors"][1]["epsilon"] == 2.0


def test_a_run_whose_clients_keep_their_own_state_is_not_continued_with_fresh_ones(tmp_path):
    directory = simulate(configuration_of({"overrides": BASE}), tmp_path / "run")
    (directory / FOLDER / CLIENTS).unlink()
    with pytest.raises(ConfigurationError, match="was not made by this kind of engine"):
        resume(directory, num_rounds=4)
