import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.supercore.task_identity import TaskIdentity
from states import states_of

from fedfuse import client_app, results
from fedfuse.assembly import configuration_of, deal_data
from fedfuse.client.state import ABSORBED, SHARED, DirectoryStore, Generation
from fedfuse.client_app import Node, deployed_node, load, make_app, simulated_node
from fedfuse.configuration import to_yaml
from fedfuse.data.federation import Shared, TransferSet
from fedfuse.data.files import write_client, write_shared
from fedfuse.engine.local_grid import LocalGrid
from fedfuse.errors import ConfigurationError
from fedfuse.messages import ABSORB, DESCRIBE, SHARE, Description, Reply, Request
from fedfuse.server_app import Service, serve
from fedfuse.simulate import assemble

RUN = "0123456789abcdef"
OTHER_RUN = "fedcba9876543210"
BASE = "num_clients=3 num_rounds=3 learn.epochs=1 absorb.epochs=1 transfer.size=40 engine.runner=sequential"
KNFU = f"{BASE} strategy=knfu model=[mlp_small,mlp_large,cnn_small]"
RUNS = {
    "knfu": KNFU,
    "swing": f"{KNFU} privacy=[swing] transfer/policy=random_subset",
    "encoded": f"{KNFU} encoding=uint8 privacy=[swing] transfer/policy=random_subset",
    "encoded-sampled": f"{BASE} strategy=fedmd encoding=top_k fraction=0.6 model=[mlp_small,mlp_large,cnn_small]",
    "fedmd-sampled": f"{BASE} strategy=fedmd fraction=0.6 model=[mlp_small,mlp_large,cnn_small]",
    "fedproto": f"{BASE} strategy=fedproto model=[mlp_small,mlp_large,cnn_small]",
    "fedavg": f"{BASE} strategy=fedavg model=[cnn_small]",
}


def over_the_wire(message):
    return message_from_proto(message_to_proto(message))


class RecordingGrid(LocalGrid):
    """Keeps all that clients replied, without the times."""

    def __init__(self, simulation):
        super().__init__(simulation.clients, simulation.settings, simulation.configuration.engine.runner)
        self.replies = []

    def send_and_receive(self, messages, *, timeout=None):
        replies = self.answer(messages)
        for reply in replies:
            record = RecordDict({name: value for name, value in reply.content.items() if name != "seconds"})
            self.replies.append((reply.metadata.message_type, reply.metadata.src_node_id, plain(record)))
        return replies

    def answer(self, messages):
        return super().send_and_receive(messages)


class AppGrid(RecordingGrid):
    """Sends every message to the ClientApp of its node, through Flower's serialisation."""

    def __init__(self, simulation, contexts, before_message=lambda: None):
        super().__init__(simulation)
        self.contexts = contexts
        self.before_message = before_message

    def answer(self, messages):
        replies = []
        for number, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = f"message-{number}"
            self.before_message()
            context = self.contexts[message.metadata.dst_node_id - 1]
            replies.append(over_the_wire(client_app.app(over_the_wire(message), context)))
        return replies


def plain(record):
    """All that a record holds, in a form that compares bit by bit."""
    return {
        name: {key: (value.dtype, value.shape, value.data) for key, value in entry.items()}
        if isinstance(entry, ArrayRecord)
        else dict(entry)
        for name, entry in record.items()
    }


def context_of(partition_id, states, overrides=KNFU, **paths):
    config = {} if partition_id is None else {"partition-id": partition_id}
    config |= {"state": str(states)} | {name: str(path) for name, path in paths.items()}
    return Context(7, 1, config, RecordDict(), {"overrides": overrides})


def run(simulation, grid, directory):
    directory.mkdir()
    strategy = simulation.strategy
    initial = strategy.initial(simulation.server)
    serve(Service(simulation.configuration, grid, strategy, simulation.server, directory, simulation.promise, initial))
    return [
        {name: value for name, value in line.items() if name != "seconds"} for line in results.read_metrics(directory)
    ]


def same_states(memory, client_id, directory):
    """Compare all that a store in memory holds of a client with a directory of files."""
    compared = 0
    for generations in states_of(memory, [client_id]).values():
        for round, phase, expected in generations:
            state = directory.load(client_id, Generation(round, phase)).to_dict()
            assert state["absorbed_round"] == expected["absorbed_round"]
            assert flat(state).keys() == flat(expected).keys()
            for name, tensor in flat(expected).items():
                assert torch.equal(flat(state)[name], tensor), (client_id, round, phase, name)
                compared += 1
    return compared


def flat(value, prefix=""):
    if isinstance(value, torch.Tensor):
        return {prefix: value}
    if not isinstance(value, dict):
        return {}
    return {key: tensor for name, inner in value.items() for key, tensor in flat(inner, f"{prefix}/{name}").items()}


@pytest.mark.parametrize("name", RUNS)
def test_app_gives_bit_by_bit_what_the_local_grid_gives(name, tmp_path):
    overrides = RUNS[name]
    configuration = configuration_of({"overrides": overrides})
    local, deployed = assemble(configuration), assemble(configuration)
    local_grid = RecordingGrid(local)
    app_grid = AppGrid(deployed, [context_of(client, tmp_path / f"node-{client}", overrides) for client in range(3)])

    expected = run(local, local_grid, tmp_path / "local")
    metrics = run(deployed, app_grid, tmp_path / "deployed")

    assert len(expected) == 3
    assert metrics == expected
    assert all(line["left_out"] == [] for line in metrics)
    # Descriptions, knowledge and metrics: every bit of every record but the times.
    kinds = [kind for kind, _, _ in local_grid.replies]
    assert (kinds.count(DESCRIBE), kinds.count(SHARE)) == (3, 9 if "sampled" not in name else 6)
    assert app_grid.replies == local_grid.replies
    compared = 0
    for client in range(3):
        directory = DirectoryStore(tmp_path / f"node-{client}" / deployed.strategy.rounds.run)
        compared += same_states(local_grid.store, client, directory)
    assert compared >= 3 * 2 * 6  # clients, generations, tensors


def write_files(directory, overrides=KNFU):
    """Write what a simulation would deal out; return the paths of each node's configuration."""
    dealt = deal_data(configuration_of({"overrides": overrides}))
    directory.mkdir(exist_ok=True)
    write_shared(directory / "transfer.npz", dealt.shared)
    for client_id, own in enumerate(dealt.clients):
        write_client(directory / f"client-{client_id}.npz", own.samples)
    return [
        {"data": directory / f"client-{client_id}.npz", "transfer": directory / "transfer.npz"}
        for client_id in range(len(dealt.clients))
    ]


def no_data(configuration):
    raise AssertionError("The configured data is none of a node's business that has its own.")


def test_clients_with_files_of_their_own_give_bit_by_bit_what_the_local_grid_gives(tmp_path, monkeypatch):
    overrides = f"{KNFU} num_rounds=2 engine.precision=float64"
    configuration = configuration_of({"overrides": overrides})
    local, deployed = assemble(configuration), assemble(configuration)
    contexts = [
        context_of(client_id, tmp_path / "states", overrides, **paths)
        for client_id, paths in enumerate(write_files(tmp_path / "files"))
    ]
    local_grid, app_grid = RecordingGrid(local), AppGrid(deployed, contexts)
    monkeypatch.setattr("fedfuse.assembly.deal_data", no_data)
    assert run(deployed, app_grid, tmp_path / "deployed") == run(local, local_grid, tmp_path / "local")
    assert app_grid.replies == local_grid.replies
    # Three clients: their descriptions, and in both rounds what they shared and how they did.
    assert len(app_grid.replies) == 3 + 2 * (3 + 3)


def test_state_survives_a_restart_of_every_node_before_every_message(tmp_path):
    overrides = f"{KNFU} num_rounds=2"
    configuration = configuration_of({"overrides": overrides})
    local, deployed = assemble(configuration), assemble(configuration)
    contexts = {}

    def restart():
        client_app.assemble.cache_clear()
        contexts.update({client: context_of(client, tmp_path / "state", overrides) for client in range(3)})

    app_grid, local_grid = AppGrid(deployed, contexts, restart), RecordingGrid(local)
    assert run(deployed, app_grid, tmp_path / "deployed") == run(local, local_grid, tmp_path / "local")
    assert app_grid.replies == local_grid.replies


def test_state_of_one_run_is_not_found_by_another(tmp_path):
    share_and_absorb(context_of(0, tmp_path))
    reply = ask(ABSORB, Request(1, OTHER_RUN).to_record(), context_of(0, tmp_path))
    assert reply["failure"]["code"] == "no-state"


def test_two_runs_do_not_disturb_each_other(tmp_path):
    alone, both = context_of(0, tmp_path / "alone"), context_of(0, tmp_path / "both")
    share_and_absorb(both, run=OTHER_RUN, round=1)
    for round in (1, 2):
        assert share_and_absorb(both, round=round) == share_and_absorb(alone, round=round)
    assert {path.name for path in (tmp_path / "both").iterdir()} == {RUN, OTHER_RUN}
    assert DirectoryStore(tmp_path / "both" / OTHER_RUN).newest(0) == Generation(1, ABSORBED)


def test_flowers_own_state_keeps_only_the_place_of_the_clients(tmp_path):
    context = context_of(1, tmp_path)
    share_and_absorb(context)
    assert plain(context.state) == {"state": {"directory": str(tmp_path / RUN)}}
    assert {path.name for path in (tmp_path / RUN).iterdir()} == {
        "client-000001.000001.absorbed.pt",
        "client-000001.000001.shared.pt",
    }
    assert (tmp_path / RUN).stat().st_mode & 0o077 == 0


def test_the_last_message_repeated_gets_the_same_reply(tmp_path):
    context = context_of(2, tmp_path)
    for round in (1, 2):
        for kind, record in ((SHARE, share_record(round=round)), (ABSORB, absorb_record(round))):
            reply = ask(kind, record, context)
            assert "failure" not in reply
            assert ask(kind, record, context) == reply


def test_describe_says_who_the_client_is(tmp_path):
    simulation = assemble(configuration_of({"overrides": KNFU}))
    for client in simulation.clients:
        message = asked(DESCRIBE, RecordDict())
        reply = over_the_wire(client_app.app(message, context_of(client.client_id, tmp_path)))
        assert Description.from_record(reply.content) == Description(
            client_id=client.client_id,
            architecture=client.architecture.signature,
            embedding_size=client.architecture.embedding_size,
            transfer_digest=simulation.server.transfer_digest,
            class_names=tuple("0123456789"),
        )
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("runner", "expected"), [("stacked", "stacked"), ("auto", "sequential"), ("sequential", "sequential")]
)
def test_one_client_is_stacked_only_where_that_is_asked_for(runner, expected, tmp_path, monkeypatch):
    asked_for, threads, choose = [], [], client_app.choose_runner
    monkeypatch.setattr(
        client_app, "choose_runner", lambda name, *arguments: asked_for.append(name) or choose(name, *arguments)
    )
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    overrides = KNFU.replace("runner=sequential", f"runner={runner} engine.threads=3")
    share_and_absorb(context_of(0, tmp_path, overrides))
    assert asked_for == [expected, expected]
    assert threads == [3, 3]


# Where a client runs, and what it has there


def test_a_deployed_node_is_what_its_run_and_its_supernode_are_configured_with(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    configuration = to_yaml(configuration_of({"overrides": KNFU}))
    context = context_of(2, tmp_path / "mine", data="own.npz", transfer="all.npz")
    node = Node(configuration, 2, tmp_path / "mine", Path("own.npz"), Path("all.npz"))
    assert deployed_node(context) == node
    for name in ("state", "data", "transfer"):
        del context.node_config[name]
    assert deployed_node(context) == Node(configuration, 2, tmp_path / "home" / ".fedfuse" / "clients", None, None)


@pytest.mark.parametrize("client_id", [-1, None, "first", 1.0, True])
def test_a_node_needs_its_client_id(client_id, tmp_path):
    with pytest.raises(ConfigurationError) as caught:
        deployed_node(context_of(client_id, tmp_path))
    assert str(caught.value) == f"The node needs partition-id=N, its client id from 0 on, not {client_id!r}."


@pytest.fixture
def logger():
    """The logger of the project, from which the handlers of the test are taken away again."""
    ours = logging.getLogger("fedfuse")
    before = list(ours.handlers)
    client_app._log_to.cache_clear()
    yield ours
    client_app._log_to.cache_clear()
    for handler in set(ours.handlers) - set(before):
        ours.removeHandler(handler)
        handler.close()


def test_a_simulated_node_keeps_its_states_and_logs_where_the_run_does(tmp_path, logger):
    log, context = tmp_path / "run.log", Context(7, 1, {"partition-id": 2, "num-partitions": 3}, RecordDict(), {})
    for _ in range(3):
        node = simulated_node("seed: 0", tmp_path / "states", log, context)
        assert node == Node("seed: 0", 2, tmp_path / "states")
    assert not log.exists()
    logger.error("it failed")
    (line,) = log.read_text().splitlines()
    assert line.endswith(" ERROR it failed")


def test_an_app_asks_for_the_node_of_every_message(tmp_path):
    contexts = []

    def find_node(context):
        contexts.append(context)
        return Node(to_yaml(configuration_of({"overrides": KNFU})), len(contexts) - 1, tmp_path / "states")

    app, context = make_app(find_node), Context(7, 1, {}, RecordDict(), {})
    answers = [app(asked(kind, share_record()), context).content for kind in (DESCRIBE, SHARE)]
    assert Description.from_record(answers[0]).client_id == 0
    assert Reply.from_record(answers[1]).client_id == 1
    assert contexts == [context, context]
    assert [path.name for path in tmp_path.glob("states/*/*")] == ["client-000001.000001.shared.pt"]


@pytest.mark.parametrize("kind", [DESCRIBE, SHARE, ABSORB])
def test_a_node_that_cannot_be_found_is_answered_with_a_failure(kind):
    def find_node(context):
        raise FileNotFoundError("/home/ada")

    reply = make_app(find_node)(asked(kind, share_record()), Context(7, 1, {}, RecordDict(), {}))
    text = "FileNotFoundError; the client's own log has the details"
    assert plain(reply.content) == {"failure": {"code": "failed", "text": text}}


def test_what_all_clients_have_in_common_is_assembled_once(tmp_path):
    client_app.assemble.cache_clear()
    text = to_yaml(configuration_of({"overrides": KNFU}))
    loaded = [load(Node(text, client_id, tmp_path)) for client_id in (0, 1, 2, 1)]
    assert client_app.assemble.cache_info().misses == 1
    assert [client.client_id for client, _, _ in loaded] == [0, 1, 2, 1]
    assert [client.architecture.name for client, _, _ in loaded] == ["mlp_small", "mlp_large", "cnn_small", "mlp_large"]
    assert loaded[1][0].data is loaded[3][0].data
    assert loaded[0][1] is loaded[1][1]
    assert loaded[0][2] == configuration_of({"overrides": KNFU}).engine


def test_a_node_may_bring_its_own_data_its_own_transfer_set_or_both(tmp_path):
    text = to_yaml(configuration_of({"overrides": KNFU}))
    other = write_files(tmp_path / "other", f"{KNFU} seed=1")[0]
    usual, usual_settings, _ = load(Node(text, 0, tmp_path))
    named = f"{KNFU} transfer.path='{other['transfer']}'"
    # As a simulation with this transfer set: nothing is held out of the data for one.
    expected = assemble(configuration_of({"overrides": named})).clients[0]
    assert not torch.equal(expected.data.train.inputs, usual.data.train.inputs)
    for paths in ({"data": other["data"]}, {"transfer": other["transfer"]}, other):
        client, settings, _ = load(Node(text, 0, tmp_path, **paths))
        assert torch.equal(client.data.train.inputs, expected.data.train.inputs) == ("data" not in paths)
        assert (settings.transfer.digest == usual_settings.transfer.digest) == ("transfer" not in paths)


@pytest.mark.parametrize("configured", [KNFU, f"{KNFU} transfer.path=elsewhere.npz"])
def test_where_the_transfer_set_is_on_the_node_counts(configured, tmp_path):
    (paths, *_) = write_files(tmp_path / "files")
    text = to_yaml(configuration_of({"overrides": configured}))
    digests = set()
    for own in (paths, {"transfer": paths["transfer"]}):
        client, settings, _ = load(Node(text, 2, tmp_path, **own))
        assert client.client_id == 2
        digests.add(settings.transfer.digest)
    assert digests == {assemble(configuration_of({"overrides": KNFU})).server.transfer_digest}


def test_a_transfer_set_that_the_configuration_names_is_used_without_the_configured_data(tmp_path, monkeypatch):
    (own, *_) = write_files(tmp_path / "files")
    expected, expected_settings, _ = load(Node(to_yaml(configuration_of({"overrides": KNFU})), 0, tmp_path))
    monkeypatch.setattr("fedfuse.assembly.deal_data", no_data)
    named = configuration_of({"overrides": f"{KNFU} transfer.path='{own['transfer']}'"})
    client, settings, _ = load(Node(to_yaml(named), 0, tmp_path, data=own["data"]))
    assert settings.transfer.digest == expected_settings.transfer.digest
    assert torch.equal(settings.global_test.inputs, expected_settings.global_test.inputs)
    assert torch.equal(client.data.test.inputs, expected.data.test.inputs)


@pytest.mark.parametrize(
    ("privacy", "told"), [("[]", True), ("[noise]", True), ("'[{name: gaussian, sigma: 1}]'", False)]
)
def test_a_client_with_data_of_its_own_tells_no_accuracies_where_a_guarantee_is_claimed(privacy, told, tmp_path):
    (own, *_) = write_files(tmp_path / "files")
    text = to_yaml(configuration_of({"overrides": f"{KNFU} privacy={privacy}"}))
    _, settings, _ = load(Node(text, 0, tmp_path, data=own["data"]))
    assert ("test_metrics" in settings.share_facts) == told
    # In a simulation nobody but the simulator sees them, and it records means.
    _, settings, _ = load(Node(text, 0, tmp_path))
    assert "test_metrics" in settings.share_facts


# Whatever comes, an answer goes out, and it tells nothing private


def share_record(**changes):
    return Request(
        **{"round": 1, "run": RUN, "sends": ("soft_labels",), "rows": torch.arange(40)} | changes
    ).to_record()


def with_record(record, name, entry):
    return RecordDict({**dict(record.items()), name: entry})


GARBAGE = {
    "nothing": RecordDict(),
    "other-records": RecordDict({"request": MetricRecord({"round": 1})}),
    "no-number": RecordDict({"request": ConfigRecord({"round": "one"})}),
    "no-list": with_record(
        share_record(),
        "request",
        ConfigRecord({"round": 1, "run": RUN, "sends": "{}", "facts": "[]", "fused-round": -1, "carriers": "[]"}),
    ),
    "unknown-carrier": share_record(sends=("secrets",)),
    "no-rows": share_record(rows=None),
    "rows-out-of-range": share_record(rows=torch.tensor([0, 4000])),
    "rows-of-text": with_record(
        share_record(), "rows", ArrayRecord({"rows": Array("float33", (2,), "numpy.ndarray", b"text")})
    ),
    "fused-of-another-shape": share_record(
        fused={"soft_labels": {"soft_labels": torch.full((40, 3), 1 / 3)}}, fused_round=0
    ),
    "fused-of-another-architecture": share_record(fused={"weights": {"w": torch.ones(2)}}, fused_round=0),
    "fused-of-an-unknown-carrier": share_record(fused={"secrets": {"w": torch.ones(2)}}, fused_round=0),
    "fused-that-is-not-there": with_record(
        share_record(),
        "request",
        ConfigRecord(
            {"round": 1, "run": RUN, "sends": "[]", "facts": "[]", "fused-round": 0, "carriers": '["weights"]'}
        ),
    ),
    "fused-nan": share_record(fused={"soft_labels": {"soft_labels": torch.full((40, 10), torch.nan)}}, fused_round=0),
}
NO_STATE = {"code": "no-state", "text": "the state of this client that this message builds on is not there"}
MISCONFIGURED = {"code": "failed", "text": "ConfigurationError; the client's own log has the details"}
REFUSED = {
    "nothing",
    "other-records",
    "no-number",
    "no-list",
    "no-rows",
    "rows-of-text",
    "fused-of-another-shape",
    "fused-of-another-architecture",
    "fused-that-is-not-there",
    "fused-nan",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_answered_with_a_failure(name, tmp_path):
    reply = ask(SHARE, GARBAGE[name], context_of(0, tmp_path))
    assert reply["failure"]["code"] == ("refused" if name in REFUSED else "failed")
    assert_tells_nothing_private(reply, tmp_path)
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.parametrize(
    "run",
    [
        "",
        "..",
        ".",
        "../0123456789abc",
        "/tmp/0123456789a",
        "0123456789ABCDEF",
        f"{RUN}0",
        f"{RUN}\n",
        RUN[1:],
        f"{RUN}/..",
    ],
)
@pytest.mark.parametrize("kind", [SHARE, ABSORB])
def test_a_run_whose_name_is_not_16_hexadecimal_digits_is_refused_and_becomes_no_path(kind, run, tmp_path):
    (tmp_path / "states").mkdir()
    context = context_of(0, tmp_path / "states")
    reply = ask(kind, share_record(run=run), context)
    assert reply["failure"]["code"] == "refused"
    assert [path.name for path in tmp_path.rglob("*")] == ["states"]
    assert plain(context.state) == {}


def test_training_that_diverges_is_answered_with_a_failure_and_not_kept(tmp_path):
    context = context_of(0, tmp_path, overrides=f"{KNFU} learn.optimizer.lr=1e30")
    reply = ask(SHARE, share_record(), context)
    assert reply["failure"]["code"] == "diverged"
    assert not list(tmp_path.rglob("*.pt"))


def test_absorb_without_share_is_answered_with_a_failure(tmp_path):
    reply = ask(ABSORB, Request(1, RUN).to_record(), context_of(0, tmp_path))
    assert reply == {"failure": NO_STATE}


def test_a_round_whose_beginning_is_lost_is_answered_with_a_failure(tmp_path):
    context = context_of(0, tmp_path)
    share_and_absorb(context, round=2)
    assert ask(SHARE, share_record(round=1), context) == {"failure": NO_STATE}
    assert DirectoryStore(tmp_path / RUN).newest(0) == Generation(2, ABSORBED)


@pytest.mark.parametrize("partition_id", [3, -1, None, "first"])
@pytest.mark.parametrize("kind", [DESCRIBE, SHARE, ABSORB])
def test_a_node_without_a_client_of_its_own_fails_and_takes_nobody_elses(partition_id, kind, tmp_path):
    assert ask(kind, share_record(), context_of(partition_id, tmp_path)) == {"failure": MISCONFIGURED}
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("brought", [(), ("data",), ("transfer",), ("data", "transfer")])
def test_a_client_id_that_the_federation_does_not_have_is_named_in_the_log(brought, tmp_path, caplog):
    (own, *_) = write_files(tmp_path / "files")
    context = context_of(3, tmp_path / "states", **{name: own[name] for name in brought})
    assert ask(DESCRIBE, RecordDict(), context) == {"failure": MISCONFIGURED}
    assert only_message(caplog) == "a message of type query.describe failed: partition-id=3, but num_clients=3."


def not_there(path):
    path.unlink()
    return f"There is no file {path}."


def no_archive(path):
    path.write_bytes(b"no archive")
    return f"{path} is no NumPy archive (.npz) of plain arrays."


def label_without_a_class(path):
    np.savez(path, inputs=np.zeros((20, 1, 8, 8), np.float32), labels=np.full(20, 10))
    return f"{path}: labels go from 10 to 10; 10 classes allow 0 to 9."


def other_shape(path):
    np.savez(path, inputs=np.zeros((20, 1, 4, 4), np.float32), labels=np.zeros(20, np.int64))
    return f"{path}: its samples are of shape (1, 4, 4), those of the transfer set of (1, 8, 8)."


@pytest.mark.parametrize("kind", [DESCRIBE, SHARE, ABSORB])
@pytest.mark.parametrize("spoil", [not_there, no_archive, label_without_a_class, other_shape])
def test_a_file_that_cannot_be_used_is_named_in_the_log_in_one_line_and_not_to_the_server(
    spoil, kind, tmp_path, caplog
):
    (own, *_) = write_files(tmp_path / "files")
    text = spoil(own["data"])
    reply = ask(kind, share_record(), context_of(0, tmp_path / "states", **own))
    assert reply == {"failure": MISCONFIGURED}
    assert_tells_nothing_private(reply, tmp_path)
    assert only_message(caplog) == f"a message of type {kind} failed: {text}"
    assert not (tmp_path / "states").exists()


def test_a_transfer_set_that_cannot_be_used_is_named_in_the_log(tmp_path, caplog):
    (own, *_) = write_files(tmp_path / "files")
    text = no_archive(own["transfer"])
    assert ask(SHARE, share_record(), context_of(0, tmp_path, **own)) == {"failure": MISCONFIGURED}
    assert only_message(caplog) == f"a message of type train.share failed: {text}"


def other_classes(path):
    names = tuple("9876543210")
    write_shared(path, Shared(TransferSet(torch.zeros(5, 1, 8, 8)), None, names))
    return f"transfer.path={path} has the classes {', '.join(names)}; data digits has {', '.join('0123456789')}."


def other_shape_of_transfer(path):
    write_shared(path, Shared(TransferSet(torch.zeros(5, 64)), None, tuple("0123456789")))
    return "The samples of the transfer set are of shape [64], those of the data of [1, 8, 8]."


@pytest.mark.parametrize("kind", [DESCRIBE, SHARE, ABSORB])
@pytest.mark.parametrize("spoil", [other_classes, other_shape_of_transfer])
def test_a_transfer_set_that_does_not_fit_the_configured_data_is_refused(spoil, kind, tmp_path, caplog):
    path = tmp_path / "transfer.npz"
    text = spoil(path)
    assert ask(kind, share_record(), context_of(0, tmp_path / "states", transfer=path)) == {"failure": MISCONFIGURED}
    assert only_message(caplog) == f"a message of type {kind} failed: {text}"
    assert not (tmp_path / "states").exists()


@pytest.mark.parametrize("kind", [DESCRIBE, SHARE, ABSORB])
def test_a_mistake_in_the_configuration_is_answered_with_a_failure(kind, tmp_path):
    for overrides in ("sed=3", "'"):
        assert ask(kind, share_record(), context_of(0, tmp_path, overrides)) == {"failure": MISCONFIGURED}


def test_a_state_that_cannot_be_read_or_written_is_answered_with_a_failure(tmp_path, caplog):
    context = context_of(0, tmp_path)
    share_and_absorb(context)
    (broken,) = tmp_path.rglob("*.absorbed.pt")
    broken.write_bytes(b"no tensor")
    reply = ask(SHARE, share_record(round=2), context)
    assert reply["failure"]["code"] == "failed"
    assert_tells_nothing_private(reply, tmp_path)
    # The owner, and only the owner, sees what happened.
    assert "a message of type train.share failed" in caplog.text
    assert "Traceback" in caplog.text

    shutil.rmtree(tmp_path / RUN)
    (tmp_path / RUN).write_text("no directory")
    reply = ask(SHARE, share_record(), context)
    assert reply["failure"]["text"] == "FileExistsError; the client's own log has the details"


def test_facts_that_are_not_allowed_do_not_travel(tmp_path):
    context = context_of(0, tmp_path, overrides=f"{KNFU} share_facts=[]")
    reply, evaluated = share_and_absorb(context, facts=("num_examples",))
    assert "num-examples" not in reply["reply"]
    assert evaluated["metrics"] == {}
    allowed, measured = share_and_absorb(context_of(0, tmp_path), run=OTHER_RUN, facts=("num_examples",))
    simulation = assemble(configuration_of({"overrides": KNFU}))
    assert allowed["reply"]["num-examples"] == len(simulation.clients[0].data.train)
    assert set(measured["metrics"]) == {
        "personal_accuracy",
        "personal_loss",
        "validation_accuracy",
        "general_accuracy",
    }


def test_without_a_directory_states_go_to_the_home_of_the_owner(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    context = context_of(0, tmp_path)
    del context.node_config["state"]
    share_and_absorb(context)
    assert (tmp_path / ".fedfuse" / "clients" / RUN / "client-000000.000001.absorbed.pt").is_file()


def test_share_and_absorb_write_the_generations_of_their_round(tmp_path):
    context = context_of(0, tmp_path)
    share_and_absorb(context)
    share_and_absorb(context, round=2)
    store = DirectoryStore(tmp_path / RUN)
    assert store.load(0, Generation(1, ABSORBED)) is None  # the last two are kept
    shared, absorbed = store.load(0, Generation(2, SHARED)), store.load(0, Generation(2, ABSORBED))
    assert (shared.absorbed_round, absorbed.absorbed_round) == (1, 2)


def absorb_record(round, run=RUN):
    uniform = {"soft_labels": {"soft_labels": torch.full((40, 10), 0.1)}}
    return Request(round, run, fused=uniform, fused_round=round).to_record()


def asked(kind, record):
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
    message = Message(record, dst_node_id=1, message_type=kind)
    message.metadata.__dict__["_message_id"] = "message"
    return message


def ask(kind, record, context):
    reply = client_app.app(asked(kind, record), context)
    assert reply.metadata.reply_to_message_id == "message"
    assert not reply.has_error()
    return {name: entry for name, entry in plain(over_the_wire(reply).content).items() if name != "seconds"}


def share_and_absorb(context, round=1, facts=(), run=RUN):
    shared = ask(SHARE, share_record(round=round, facts=facts, run=run), context)
    absorbed = ask(ABSORB, absorb_record(round, run), context)
    assert "failure" not in shared
    assert "failure" not in absorbed
    return shared, absorbed


def only_message(caplog):
    """The one line that was logged; it must be one, and without a traceback."""
    (record,) = caplog.records
    assert (record.levelname, record.exc_info) == ("ERROR", None)
    assert "\n" not in record.getMessage()
    return record.getMessage()


def assert_tells_nothing_private(reply, directory):
    assert set(reply) == {"failure"}
    assert set(reply["failure"]) == {"code", "text"}
    text = json.dumps(reply)
    for private in (str(directory), "/", "\\", "Traceback", "line ", ".pt", "secrets", "4000"):
        assert private not in text
