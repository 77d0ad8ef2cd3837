import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from states import states_of

from fedfuse.assembly import (
    configuration_of,
    deal_data,
    load_client,
    load_federation,
    load_server_labels,
    load_shared,
    make_architectures,
    make_client_settings,
    make_clients,
    make_round_settings,
    make_server,
    make_strategy,
    make_trackers,
    resumed_directory,
)
from fedfuse.composition import compose
from fedfuse.configuration import Component
from fedfuse.data.federation import Shared, TransferSet
from fedfuse.data.files import write_client, write_shared
from fedfuse.data.samples import Samples
from fedfuse.engine.local_grid import LocalGrid
from fedfuse.errors import ConfigurationError
from fedfuse.messages import SHARE, Reply
from fedfuse.rounds import RoundSettings
from fedfuse.server_app import Service, serve
from fedfuse.simulate import assemble
from fedfuse.transfer.policy import no_past
from strategies.knfu import KnFu

BASE = ["num_clients=4", "num_rounds=1", "learn.epochs=1", "absorb.epochs=1", "transfer.size=40"]


@functools.cache
def federation():
    return load_federation(compose(BASE))


def test_run_config_is_read_like_a_shell_reads_words():
    quoted = "seed=3 'model=[mlp_small, cnn_small]' output='my run' \"privacy=[swing, noise]\""
    configuration = configuration_of({"overrides": quoted})
    assert configuration.seed == 3
    assert [model.name for model in configuration.model] == ["mlp_small", "cnn_small"]
    assert [protector.name for protector in configuration.privacy] == ["swing", "noise"]
    assert configuration_of({}) == compose([])


@pytest.mark.parametrize("overrides", ["seed=3 'output=my run", 'seed=3 "', "seed=3 \\"])
def test_overrides_that_no_shell_could_read_are_refused_in_one_line(overrides):
    for read in (configuration_of, resumed_directory):
        with pytest.raises(ConfigurationError) as refused:
            read({"overrides": overrides})
        text = str(refused.value)
        assert text.startswith(f"Cannot read overrides={overrides!r}: No ")
        assert text.endswith(".")
        assert "\n" not in text


def test_the_directory_to_go_on_in_is_no_part_of_the_configuration():
    run_config = {"overrides": "seed=3 'resume=outputs/my run' num_rounds=5"}
    assert resumed_directory(run_config) == Path("outputs/my run")
    assert configuration_of(run_config) == compose(["seed=3", "num_rounds=5"])
    assert resumed_directory({"overrides": "resume=one resume=two"}) == Path("two")
    assert resumed_directory({"overrides": "seed=3 output=resume=one"}) is None
    assert resumed_directory({}) is None


def test_a_target_that_is_no_strategy_is_refused():
    with pytest.raises(ConfigurationError) as refused:
        make_strategy(Component("mine", "fedfuse.objectives.kd.KD", {}))
    assert str(refused.value) == (
        "strategy mine (fedfuse.objectives.kd.KD) is no subclass of fedfuse.strategy.FusionStrategy."
    )


def test_a_strategy_is_built_with_its_arguments():
    strategy = make_strategy(Component("knfu", "strategies.knfu.KnFu", {"beta": 3.0, "divergence": "l2"}))
    assert (type(strategy), strategy.beta, strategy.divergence) == (KnFu, 3.0, "l2")


# Who gets what


def test_models_are_dealt_to_the_clients_in_turn():
    configuration = compose([*BASE, "model=[cnn_small,mlp_small,mlp_large]"])
    architectures = make_architectures(configuration, federation().shared)
    assert [architecture.name for architecture in architectures] == ["cnn_small", "mlp_small", "mlp_large"]
    clients = make_clients(federation(), architectures)
    assert [client.client_id for client in clients] == [0, 1, 2, 3]
    assert [client.architecture.name for client in clients] == ["cnn_small", "mlp_small", "mlp_large", "cnn_small"]
    assert all(client.data is data for client, data in zip(clients, federation().clients, strict=True))


def test_a_model_is_described_with_the_shape_and_the_classes_of_the_data():
    (architecture,) = make_architectures(
        compose([*BASE, "model=[{name: mlp_small, hidden: [5], embedding_size: 3}]"]), federation().shared
    )
    assert [tuple(shape) for shape in architecture.shapes.values()] == [(5, 64), (5,), (3, 5), (3,), (10, 3), (10,)]


def test_federation_follows_the_configuration():
    assert len(federation().clients) == 4
    assert len(federation().shared.transfer) == 40
    other = load_federation(compose([*BASE, "num_clients=2", "transfer.size=30", "partition=iid", "seed=1"]))
    assert (len(other.clients), len(other.shared.transfer)) == (2, 30)
    sizes = [len(client.train) + len(client.validation) + len(client.test) for client in other.clients]
    assert abs(sizes[0] - sizes[1]) <= 1
    assert sum(sizes) + 30 + len(other.shared.global_test) == 1797
    assert not torch.equal(other.shared.transfer.inputs, federation().shared.transfer.inputs[:30])


def test_the_server_alone_gets_labels_of_transfer_samples_where_the_configuration_says_so():
    configuration = compose([*BASE, "transfer.labelled=9"])
    labelled = load_federation(configuration)
    assert labelled.server_labels.shape == (9,)
    assert torch.equal(labelled.server_labels, load_server_labels(configuration))
    assert labelled.shared.transfer.digest == federation().shared.transfer.digest
    architectures = make_architectures(configuration, labelled.shared)
    server = make_server(configuration, labelled.shared, architectures, labelled.server_labels)
    assert server.labels is labelled.server_labels
    assert server.training == configuration.absorb
    assert load_server_labels(compose(BASE)) is None
    assert federation().server_labels is None


def test_the_federation_is_what_is_dealt_in_the_configured_precision():
    configuration = compose([*BASE, "engine.precision=float64"])
    dealt, double = deal_data(configuration), load_federation(configuration)
    assert dealt.shared.transfer.inputs.dtype == torch.float32
    assert torch.equal(dealt.shared.transfer.inputs, federation().shared.transfer.inputs)
    assert double.shared.transfer.inputs.dtype == double.shared.global_test.inputs.dtype == torch.float64
    assert {sets.inputs.dtype for own in double.clients for sets in vars(own).values()} == {torch.float64}
    for data, own, single in zip(dealt.clients, double.clients, federation().clients, strict=True):
        assert len(data.samples) == len(own.train) + len(own.validation) + len(own.test)
        assert torch.equal(own.train.inputs.float(), single.train.inputs)


def table():
    """A data source that returns what it should not."""
    return [[0.5, 1.5]]


def test_a_data_source_that_gives_something_else_is_refused():
    target = f"{__name__}.table"
    with pytest.raises(ConfigurationError) as refused:
        deal_data(replace(compose(BASE), data=Component("mine", target, {})))
    assert str(refused.value) == (f"data mine ({target}) gave list; it must return fedfuse.data.samples.LabelledData.")


# Files


@pytest.fixture
def transfer_file(tmp_path):
    """Return a function that writes a transfer set of images, and its path as a configuration names it."""

    def write(class_names=tuple("0123456789"), shape=(1, 8, 8), test=None):
        path = tmp_path / "transfer set.npz"
        inputs = torch.rand(25, *shape, generator=torch.Generator().manual_seed(0))
        write_shared(path, Shared(TransferSet(inputs), test, class_names))
        return path

    return write


def test_a_simulation_may_take_its_transfer_set_from_a_file(transfer_file):
    path = transfer_file(test=Samples(torch.zeros(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64)))
    other = load_federation(compose([*BASE, f"transfer.path='{path}'", "engine.precision=float64"]))
    assert other.shared.transfer.inputs.dtype == torch.float64
    named = load_shared(compose([f"transfer.path='{path}'", "engine.precision=float64"]))
    assert other.shared.transfer.digest == named.transfer.digest
    assert len(other.shared.transfer) == 25
    # The data keeps its own test set, and all that was held out of it is the clients'.
    assert torch.equal(other.shared.global_test.inputs.float(), federation().shared.global_test.inputs)
    assert other.label_counts().sum() == federation().label_counts().sum() + 40


def test_the_classes_of_a_transfer_set_must_be_those_of_the_data(transfer_file):
    for names in (("0", "1"), tuple("9876543210")):
        path = transfer_file(names)
        with pytest.raises(ConfigurationError) as refused:
            deal_data(compose([*BASE, f"transfer.path='{path}'"]))
        assert str(refused.value) == (
            f"transfer.path={path} has the classes {', '.join(names)}; data digits has {', '.join('0123456789')}."
        )


def test_the_samples_of_a_transfer_set_must_have_the_shape_of_the_data(transfer_file):
    path = transfer_file(shape=(64,))
    with pytest.raises(ConfigurationError, match=r"of shape \[64\], those of the data of \[1, 8, 8\]"):
        deal_data(compose([*BASE, f"transfer.path='{path}'"]))


def test_a_transfer_set_that_is_not_there_is_named(tmp_path):
    configuration = compose([*BASE, f"transfer.path='{tmp_path / 'none.npz'}'"])
    for load in (deal_data, load_federation, load_shared):
        with pytest.raises(ConfigurationError) as refused:
            load(configuration)
        assert str(refused.value) == f"There is no file {tmp_path / 'none.npz'}."


def test_what_everybody_holds_is_a_file_or_held_out_of_the_data(transfer_file, monkeypatch):
    held_out = load_shared(compose(BASE))
    assert held_out.transfer.digest == federation().shared.transfer.digest
    assert torch.equal(held_out.global_test.inputs, federation().shared.global_test.inputs)

    monkeypatch.setattr("fedfuse.data.sources.digits.digits", None)  # with a file, no data source is needed
    path = transfer_file()
    named, double = (
        load_shared(compose([f"transfer.path='{path}'", f"engine.precision={precision}"]))
        for precision in ("float32", "float64")
    )
    assert (named.transfer.inputs.dtype, double.transfer.inputs.dtype) == (torch.float32, torch.float64)
    assert torch.equal(named.transfer.inputs.double(), double.transfer.inputs)
    assert named.transfer.digest != held_out.transfer.digest
    assert len(named.transfer) == 25
    assert named.global_test is double.global_test is None


def test_a_client_that_loads_its_own_file_has_the_sets_of_the_simulation(tmp_path):
    configuration = compose([*BASE, "engine.precision=float64"])
    dealt, simulated = deal_data(configuration), load_federation(configuration)
    for client_id in (0, 3):
        write_client(tmp_path / "own.npz", dealt.clients[client_id].samples)
        own = load_client(configuration, simulated.shared, client_id, tmp_path / "own.npz")
        for name in ("train", "validation", "test"):
            loaded, expected = getattr(own, name), getattr(simulated.clients[client_id], name)
            assert loaded.inputs.dtype == torch.float64
            assert torch.equal(loaded.inputs, expected.inputs)
            assert torch.equal(loaded.labels, expected.labels)


def test_a_client_with_too_few_samples_is_named(tmp_path):
    write_client(tmp_path / "own.npz", Samples(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])))
    with pytest.raises(ConfigurationError, match=r"^Client 3 has 2 samples, which leaves it no validation sample"):
        load_client(compose(BASE), federation().shared, 3, tmp_path / "own.npz")


def test_the_seed_of_the_run_shares_the_data_out(monkeypatch):
    given = []

    def alternating(population, num_clients, seed, min_samples):
        given.append((num_clients, seed, min_samples))
        return [np.arange(client, len(population), num_clients) for client in range(num_clients)]

    monkeypatch.setattr("fedfuse.data.partitions.iid.iid", alternating)
    federation = load_federation(compose([*BASE, "num_clients=2", "partition=iid", "seed=7"]))
    assert given == [(2, 7, 10)]
    assert len(federation.clients) == 2


def test_client_settings_follow_the_configuration():
    configuration = compose(
        [*BASE, "seed=5", "objective.temperature=2.5", "privacy=[noise,swing]", "share_facts=[num_examples]"]
    )
    settings = make_client_settings(configuration, federation().shared)
    assert settings.seed == 5
    assert settings.objective.temperature == 2.5
    assert [type(protector).__name__ for protector in settings.protectors] == ["Noise", "Swing"]
    assert settings.share_facts == {"num_examples"}
    assert (settings.learn, settings.absorb) == (configuration.learn, configuration.absorb)
    assert settings.transfer is federation().shared.transfer
    assert settings.global_test is federation().shared.global_test
    assert settings.class_names == tuple("0123456789")


def test_server_has_no_samples_but_the_transfer_set():
    configuration = compose([*BASE, "transfer/policy=random_subset", "transfer.policy.fraction=0.25"])
    architectures = make_architectures(configuration, federation().shared)
    server = make_server(configuration, federation().shared, architectures)
    assert server.transfer_inputs is federation().shared.transfer.inputs
    assert server.transfer_digest == federation().shared.transfer.digest
    assert dict(server.architectures) == {one.signature: one for one in architectures}
    assert len(server.transfer_rows(no_past(40), server.generator("rows"))) == 10
    assert not any(isinstance(value, Samples) for value in vars(server).values())


def test_round_settings_follow_the_configuration():
    configuration = compose(["seed=4", "num_clients=7", "fraction=0.3", "min_clients=2", "share_facts=[test_metrics]"])
    assert make_round_settings(configuration) == RoundSettings(4, 7, 0.3, 2, frozenset({"test_metrics"}))


class Noted:
    def __init__(self, **arguments):
        self.arguments = arguments


def test_trackers_are_built_in_their_order_with_their_arguments():
    target = f"{__name__}.Noted"
    components = (Component("one", target, {"project": "mine"}), Component("two", target, {}))
    trackers = make_trackers(replace(compose([]), tracking=components))
    assert [type(tracker) for tracker in trackers] == [Noted, Noted]
    assert [tracker.arguments for tracker in trackers] == [{"project": "mine"}, {}]
    assert make_trackers(compose([])) == []


# Precision


class Recorder(LocalGrid):
    def send_and_receive(self, messages, *, timeout=None):
        self.records = [*getattr(self, "records", []), *[message.content for message in messages]]
        replies = super().send_and_receive(messages)
        self.records += [reply.content for reply in replies]
        self.replies = getattr(self, "replies", []) + replies
        return replies


def floating(value):
    """All floating tensors in nested containers."""
    if isinstance(value, torch.Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, Samples):
        return [value.inputs]
    if isinstance(value, dict):
        return [tensor for inner in value.values() for tensor in floating(inner)]
    if isinstance(value, list | tuple):
        return [tensor for inner in value for tensor in floating(inner)]
    return []


@pytest.mark.parametrize(("precision", "dtype"), [("float64", torch.float64), ("float32", torch.float32)])
@pytest.mark.parametrize("strategy", ["knfu", "fedmd", "fedproto", "fedavg"])
@pytest.mark.parametrize("runner", ["sequential", "stacked"])
def test_precision_is_the_same_everywhere(precision, dtype, strategy, runner, tmp_path):
    overrides = [*BASE, f"strategy={strategy}", f"engine.precision={precision}", f"engine.runner={runner}"]
    overrides += ["num_rounds=2", "learn.batch_size=128", "model=mlp_small"]
    overrides += ["privacy=[swing]", "transfer/policy=random_subset"] if strategy in ("knfu", "fedmd") else []
    simulation = assemble(compose(overrides))
    grid = Recorder(simulation.clients, simulation.settings, runner)
    seen, fuse = [], simulation.strategy.fuse

    def recording_fuse(knowledge, server):
        fused = fuse(knowledge, server)
        seen.extend([knowledge, fused])
        return fused

    simulation.strategy.fuse = recording_fuse
    initial = simulation.strategy.initial(simulation.server)
    serve(
        Service(
            simulation.configuration,
            grid,
            simulation.strategy,
            simulation.server,
            tmp_path,
            simulation.promise,
            initial,
        )
    )

    arrays = [array for record in grid.records for arrays in record.array_records.values() for array in arrays.values()]
    assert {array.dtype for array in arrays if array.dtype.startswith("float")} == {precision}
    shared = [Reply.from_record(reply.content) for reply in grid.replies if reply.metadata.message_type == SHARE]
    states = floating(states_of(grid.store, range(len(simulation.clients))))
    data = [floating(vars(client.data)) for client in simulation.clients]
    server = [simulation.server.transfer_inputs, simulation.settings.global_test.inputs]
    built = list(simulation.server.build(simulation.clients[0].architecture.signature).state_dict().values())
    stacked = [floating([dict(cohort.weights) for cohort in k.weights]) for k in seen[::2]]
    stacked += [floating([dict(tensors) for tensors in k.tensors.values()]) for k in seen[::2]]
    for tensors in (
        floating([[dict(t) for t in reply.knowledge.carriers.values()] for reply in shared]),
        states,
        [tensor for own in data for tensor in own],
        server,
        built,
        [tensor for own in stacked for tensor in own],
    ):
        assert len(tensors) >= 2
        assert {tensor.dtype for tensor in tensors} == {dtype}


def test_double_precision_starts_from_the_same_numbers():
    single, double = (assemble(compose([*BASE, f"engine.precision={p}"])) for p in ("float32", "float64"))
    assert torch.equal(double.server.transfer_inputs.float(), single.server.transfer_inputs)
    seed = 11
    for own, other in zip(single.clients, double.clients, strict=True):
        assert torch.equal(own.data.train.inputs.double(), other.data.train.inputs)
        first = own.architecture.initial_parameters(seed, torch.float32)
        second = other.architecture.initial_parameters(seed, torch.float64)
        assert all(torch.equal(first[name].double(), second[name]) for name in first)
