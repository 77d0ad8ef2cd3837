import functools
import math
import sys

import pytest
import torch
from flwr.serverapp.strategy import Strategy
from required import REQUIRED

from fedfuse import catalogue, cli, results
from fedfuse.assembly import make_strategy
from fedfuse.composition import compose
from fedfuse.configuration import from_yaml
from fedfuse.errors import FedfuseError
from fedfuse.knowledge import Fused, KnowledgeBatch, WeightStack
from fedfuse.simulate import assemble, simulate
from fedfuse.strategy import FusionStrategy
from fedfuse.summary import read_summary

BASE = ["num_clients=4", "num_rounds=3", "learn.epochs=1", "learn.batch_size=64", "absorb.epochs=1"]
BASE += ["transfer.size=40", "engine.runner=sequential", "local_baseline=false"]
# An oracle wants to know all, and learned fusions some labels.
BASE += ["share_facts=[num_examples,test_metrics,label_counts,private_labels]", "transfer.labelled=10"]
SHIPPED = sorted(set(catalogue.names("strategy", catalogue.folders())) - {"custom"})

N, M, C = 4, 7, 3  # clients, transfer samples, classes
CLIENTS = (2, 3, 5, 9)


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    monkeypatch.setattr("fedfuse.conclusion.draw_figures", lambda directory, summary: [])


def batch(complete=False):
    generator = torch.Generator().manual_seed(0)
    soft_labels = torch.softmax(3 * torch.randn(N, M, C, generator=generator, dtype=torch.float64), 2)
    mask = torch.rand(N, M, generator=generator) < 0.7
    mask[:, 0], mask[:, 1] = True, False  # a sample that all answered, and one that nobody did
    mask |= torch.tensor(complete)
    tensors = {"soft_labels": {"soft_labels": soft_labels * mask.unsqueeze(2), "mask": mask}}
    return KnowledgeBatch(CLIENTS, 1, tensors)


def relevance_of(knowledge):
    scores = torch.arange(N * N, dtype=torch.float64).reshape(N, N).sin()
    return torch.softmax(scores, 1)


def sparse_relevance_of(knowledge):
    return torch.eye(N, dtype=torch.float64).roll(1, 0)


def weights_of(knowledge):
    weights = torch.arange(N * M, dtype=torch.float64).reshape(N, M).cos().abs()
    weights[2] = 0  # nobody counts on client 2
    return weights


def strategy_of(relate=None, weigh=None, space="probability"):
    hooks = {"sends": frozenset({"soft_labels"}), "returns": frozenset({"soft_labels"}), "space": space}
    hooks |= {} if relate is None else {"relate": lambda self, knowledge: relate(knowledge)}
    hooks |= {} if weigh is None else {"weigh": lambda self, knowledge: weigh(knowledge)}
    return type("Mine", (FusionStrategy,), hooks)()


def brute_force(knowledge, relevance, weights, space, listener, sample):
    """One listener's soft label on one sample, from the formula; None where nobody it counts on answered."""
    total, mixed = 0.0, [0.0] * C
    for client in range(N):
        if not knowledge.mask[client, sample]:
            continue
        weight = float(relevance[listener, client]) * float(weights[client, sample])
        total += weight
        for label in range(C):
            probability = float(knowledge.soft_labels[client, sample, label])
            mixed[label] += weight * (probability if space == "probability" else math.log(probability))
    if total == 0:
        return None
    mixed = [value / total for value in mixed]
    if space == "probability":
        return mixed
    exponentials = [math.exp(value) for value in mixed]
    return [value / sum(exponentials) for value in exponentials]


@pytest.mark.parametrize("weigh", [None, weights_of])
def test_a_strategy_may_listen_to_a_few_neighbours(weigh):
    strategy, knowledge = strategy_of(relevance_of, weigh), batch()
    strategy.neighbours = 2
    fused = strategy.fuse(knowledge, None)
    assert ((fused.relevance > 0).sum(1) == 2).all()
    kept = relevance_of(knowledge).topk(2)
    torch.testing.assert_close(fused.relevance.gather(1, kept.indices), kept.values / kept.values.sum(1, keepdim=True))
    weights = torch.ones(N, M) if weigh is None else weigh(knowledge)
    for listener, client_id in enumerate(CLIENTS):
        own = fused.personal[client_id]["soft_labels"]
        for sample in range(M):
            expected = brute_force(knowledge, fused.relevance, weights, "probability", listener, sample)
            assert bool(own["mask"][sample]) == (expected is not None)
            assert expected is None or own["soft_labels"][sample].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("space", ["probability", "log_probability", "logit"])
@pytest.mark.parametrize("relate", [None, relevance_of, sparse_relevance_of])
@pytest.mark.parametrize("weigh", [None, weights_of])
@pytest.mark.parametrize("complete", [False, True])
def test_hooks_one_by_one_and_together_mix_by_the_formula(space, relate, weigh, complete):
    knowledge = batch(complete=complete)
    fused = strategy_of(relate, weigh, space).fuse(knowledge, server=None)

    relevance = torch.ones(N, N) if relate is None else relate(knowledge)
    weights = torch.ones(N, M) if weigh is None else weigh(knowledge)
    if relate is None:
        assert fused.personal == {}
        received = dict.fromkeys(CLIENTS, fused.common["soft_labels"])
    else:
        assert fused.common is None
        assert tuple(fused.personal) == CLIENTS
        received = {client: carriers["soft_labels"] for client, carriers in fused.personal.items()}
    for listener, client in enumerate(CLIENTS):
        tensors = received[client]
        assert tensors["soft_labels"].dtype == torch.float64
        for sample in range(M):
            expected = brute_force(knowledge, relevance, weights, space, listener, sample)
            assert bool(tensors["mask"][sample]) == (expected is not None)
            if expected is not None:
                assert tensors["soft_labels"][sample].tolist() == pytest.approx(expected, abs=1e-12)


def test_what_was_listened_to_is_kept_for_the_report():
    knowledge = batch()
    assert torch.equal(strategy_of(relevance_of).fuse(knowledge, None).relevance, relevance_of(knowledge))
    assert torch.equal(strategy_of(relevance_of, weights_of).fuse(knowledge, None).relevance, relevance_of(knowledge))
    # With one answer for all, a client counts by its share of what was answered.
    answered = knowledge.mask.double().sum(1)
    plain = strategy_of().fuse(knowledge, None).relevance
    assert plain.shape == (N, N)
    assert torch.allclose(plain, (answered / answered.sum()).expand(N, N), atol=1e-15)
    counted = (weights_of(knowledge) * knowledge.mask).sum(1)
    weighed = strategy_of(weigh=weights_of).fuse(knowledge, None).relevance
    assert torch.allclose(weighed, (counted / counted.sum()).expand(N, N), atol=1e-15)
    assert (weighed[:, 2] == 0).all()
    for relevance in (plain, weighed):
        assert torch.allclose(relevance.sum(1), torch.ones(N, dtype=torch.float64))


def test_with_no_hook_everybody_gets_the_mean():
    knowledge = batch(complete=True)
    fused = strategy_of().fuse(knowledge, None)
    assert torch.allclose(fused.common["soft_labels"]["soft_labels"], knowledge.soft_labels.mean(0), atol=1e-15)
    assert torch.equal(fused.relevance, torch.full((N, N), 1 / N, dtype=torch.float64))


def test_a_strategy_that_returns_nothing_fuses_nothing():
    fused = type("Silent", (FusionStrategy,), {"sends": {"soft_labels"}})().fuse(batch(), None)
    assert (fused.common, dict(fused.personal), fused.relevance) == (None, {}, None)


@pytest.mark.parametrize(
    ("hook", "returned", "text"),
    [
        ("relate", torch.eye(3), "Mine.relate returned [3, 3], expected [4, 4]."),
        ("relate", torch.eye(N) * 2, "Mine.relate returned rows that do not sum to one (off by up to 1)."),
        ("relate", torch.eye(N) * torch.nan, "Mine.relate returned a negative number or a NaN."),
        ("relate", 2 * torch.eye(N) - 1 / N, "Mine.relate returned a negative number or a NaN."),
        ("weigh", torch.ones(M, N), "Mine.weigh returned [7, 4], expected [4, 7]."),
        ("weigh", torch.full((N, M), torch.inf), "Mine.weigh returned a negative number or a NaN."),
        ("weigh", -torch.ones(N, M), "Mine.weigh returned a negative number or a NaN."),
    ],
)
def test_a_hook_that_returns_what_cannot_be_used_is_named(hook, returned, text):
    with pytest.raises(FedfuseError) as stopped:
        strategy_of(**{hook: lambda knowledge: returned}).fuse(batch(), None)
    assert str(stopped.value) == text


def test_rows_that_sum_to_one_up_to_rounding_are_fine():
    fused = strategy_of(lambda knowledge: relevance_of(knowledge) * (1 + 9e-4)).fuse(batch(), None)
    exact = strategy_of(relevance_of).fuse(batch(), None)
    for client in CLIENTS:
        mixed, expected = (f.personal[client]["soft_labels"]["soft_labels"] for f in (fused, exact))
        assert torch.allclose(mixed, expected, atol=1e-12)


def test_a_fusion_strategy_is_a_strategy_of_flower_with_nothing_to_set_up():
    strategy = FusionStrategy()
    assert isinstance(strategy, Strategy)
    assert (strategy.sends, strategy.returns, strategy.needs) == (frozenset(), frozenset(), frozenset())
    assert (strategy.one_architecture, strategy.one_embedding_size) == (False, False)
    assert strategy.state_dict() == {}
    assert strategy.load_state_dict({}) is None
    assert strategy.summary() is None
    assert strategy.initial(None) is None


@pytest.mark.parametrize("phase", ["configure_train", "configure_evaluate"])
def test_a_strategy_without_a_run_says_so(phase):
    with pytest.raises(FedfuseError, match="not attached to a run"):
        getattr(FusionStrategy(), phase)(1, None, None, None)


# A user's own

OWN = '''
import torch
from fedfuse.strategy import FusionStrategy


class Selfish(FusionStrategy):
    """Listens mostly to oneself."""

    sends = returns = {"soft_labels"}

    def __init__(self, strength: float):
        self.strength = strength

    def relate(self, knowledge):
        number = len(knowledge)
        return torch.softmax(self.strength * torch.eye(number), dim=1)
'''


def test_a_strategy_of_ones_own_runs_from_a_file(tmp_path, monkeypatch):
    (tmp_path / "my_strategies.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    own = ["strategy=custom", "strategy._target_=my_strategies.Selfish", "++strategy.strength=2"]
    directory = simulate(compose([*BASE, *own]), tmp_path / "run")

    configuration = from_yaml((directory / "config.yaml").read_text())
    assert configuration.strategy.target == "my_strategies.Selfish"
    assert configuration.strategy.arguments == {"strength": 2}
    round, relevance, clients = results.read_latest_relevance(directory)
    expected = torch.softmax(2 * torch.eye(4), dim=1)
    assert (round, clients.tolist()) == (3, [0, 1, 2, 3])
    assert torch.equal(torch.from_numpy(relevance), expected)
    assert [line["left_out"] for line in results.read_metrics(directory)] == [[], [], []]
    assert read_summary(directory)["configuration"]["strategy"] == "custom"


def test_a_strategy_of_ones_own_runs_from_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "my_strategy.py").write_text(OWN)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    own = ["strategy=custom", "strategy._target_=my_strategy.Selfish", "++strategy.strength=0", "num_rounds=1"]
    assert cli.main(["run", *BASE, *own, "output=run"]) == 0
    # Without strength it listens to all alike.
    _, relevance, _ = results.read_latest_relevance(tmp_path / "run")
    assert (relevance == 0.25).all()


# Those that are shipped


@functools.cache
def simulation_of(name):
    return assemble(compose([*BASE, f"strategy={name}", *REQUIRED.get(name, []), "model=mlp_small"]))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_strategy_runs_with_finite_metrics(name, tmp_path):
    model = "model=mlp_small" if simulation_of(name).strategy.one_architecture else "model=[mlp_small,cnn_small]"
    configuration = compose([*BASE, f"strategy={name}", *REQUIRED.get(name, []), model])
    directory = simulate(configuration, tmp_path / "run")
    lines = results.read_metrics(directory)
    # Where privacy is guaranteed, how clients differ is not recorded.
    claimed = simulation_of(name).promise.is_claimed
    assert [line["round"] for line in lines] == [1, 2, 3]
    for line in lines:
        assert line["left_out"] == []
        assert line["participants"] == 4
        measured = {key: value for key, value in line.items() if key.startswith(("personal", "general", "validation"))}
        assert len(measured) == 9
        known = [value for value in measured.values() if value is not None]
        assert len(known) == (3 if claimed else 9)
        assert all(math.isfinite(value) and 0 <= value <= 1 for value in known)
    for clients in results.read_clients(directory).values():
        assert len(clients) == 4
        known = [client.personal_loss for client in clients if client.personal_loss is not None]
        assert len(known) == (0 if claimed else 4)
        assert all(math.isfinite(loss) for loss in known)
    # Three rounds of ten classes are enough to know more than nothing.
    assert lines[-1]["personal_mean"] > 0.25
    relevance = results.read_latest_relevance(directory)
    if relevance is not None:
        assert relevance[1].shape == (4, 4)
        assert relevance[1].sum(1) == pytest.approx(1, abs=1e-6)


def random_batch(name, permutation):
    """Knowledge of four clients in every carrier that the strategy wants; the clients in another order."""
    simulation = simulation_of(name)
    architecture = simulation.clients[0].architecture
    generator = torch.Generator().manual_seed(1)
    soft_labels = torch.softmax(torch.randn(4, 40, 10, generator=generator, dtype=torch.float64), 2)
    prototypes = torch.randn(4, 10, architecture.embedding_size, generator=generator, dtype=torch.float64)
    holds = torch.rand(4, 10, generator=generator) < 0.7
    class_logits = torch.randn(4, 10, 10, generator=generator, dtype=torch.float64)
    densities = 5 * torch.randn(4, 40, generator=generator, dtype=torch.float64)
    familiarity = torch.rand(4, 40, generator=generator, dtype=torch.float64)
    relations = 2 * torch.rand(4, 40 * 39 // 2, generator=generator, dtype=torch.float64)
    label_counts = torch.randint(1, 9, (4, 10), generator=generator).double()
    weights = {
        key: torch.randn(4, *shape, generator=generator, dtype=torch.float64)[permutation]
        for key, shape in architecture.shapes.items()
    }
    private = {
        "features": torch.randn(4, 6, architecture.embedding_size, generator=generator, dtype=torch.float64),
        "logits": torch.randn(4, 6, 10, generator=generator, dtype=torch.float64),
        "labels": torch.randint(10, (4, 6), generator=generator),
    }
    return KnowledgeBatch(
        client_ids=(0, 1, 2, 3),
        round=1,
        tensors={
            "soft_labels": {"soft_labels": soft_labels[permutation], "mask": torch.ones(4, 40, dtype=torch.bool)},
            "prototypes": {"prototypes": prototypes[permutation], "mask": holds[permutation]},
            "class_logits": {"class_logits": class_logits[permutation], "mask": holds[permutation]},
            "head": {"weight": weights["head.weight"], "bias": weights["head.bias"]},
            "private_features": {
                **{key: tensor[permutation].flatten(0, 1) for key, tensor in private.items()},
                "owners": torch.arange(4).repeat_interleave(6),
            },
            "relations": {"relations": relations[permutation], "mask": torch.ones(4, 40, dtype=torch.bool)},
            "densities": {
                "densities": densities[permutation],
                "familiarity": familiarity[permutation],
                "mask": torch.ones(4, 40, dtype=torch.bool),
            },
        },
        weights=(WeightStack(architecture.signature, torch.arange(4), weights),),
        num_examples=torch.tensor([10.0, 20.0, 30.0, 40.0], dtype=torch.float64)[permutation],
        label_counts=label_counts[permutation],
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_the_order_of_the_clients_changes_nothing_but_the_order(name):
    permutation = torch.tensor([2, 0, 3, 1])
    simulation = simulation_of(name)
    strategies = [make_strategy(simulation.configuration.strategy) for _ in range(2)]
    fused = strategies[0].fuse(random_batch(name, torch.arange(4)), simulation.server)
    permuted = strategies[1].fuse(random_batch(name, permutation), simulation.server)
    assert (fused.common is None) == (permuted.common is None)
    assert set(fused.personal) == set(permuted.personal)
    pairs = [(fused.common or {}, permuted.common or {})]
    pairs += [(fused.personal[int(permutation[row])], permuted.personal[row]) for row in fused.personal]
    compared = 0
    for expected, carriers in pairs:
        assert set(expected) == set(carriers)
        for carrier, tensors in expected.items():
            for key, tensor in tensors.items():
                assert torch.allclose(carriers[carrier][key].double(), tensor.double(), atol=1e-12)
                compared += 1
    assert compared >= 2 or not strategies[0].returns
    if fused.relevance is not None:
        assert torch.allclose(permuted.relevance, fused.relevance[permutation][:, permutation], atol=1e-12)


def test_what_a_strategy_fuses_is_immutable():
    fused = strategy_of().fuse(batch(), None)
    assert isinstance(fused, Fused)
    with pytest.raises(TypeError):
        fused.common["soft_labels"] = {}
