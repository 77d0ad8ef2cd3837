import json
import shutil
from pathlib import Path

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.supercore.task_identity import TaskIdentity

from fedfuse import client_app, results
from fedfuse.assembly import configuration_of
from fedfuse.client.state import ABSORBED, SHARED, DirectoryStore, Generation, MemoryStore
from fedfuse.engine.local_grid import LocalGrid
from fedfuse.messages import ABSORB, DESCRIBE, SHARE, Description, Request
from fedfuse.server_app import Service, serve
from fedfuse.simulate import assemble

BASE = "num_clients=3 num_rounds=3 learn.epochs=1 absorb.epochs=1 transfer.size=40 engine.runner=sequential"
KNFU = f"{BASE} strategy=knfu model=[mlp_small,mlp_large,cnn_small]"
RUNS = {
    "knfu": KNFU,
    "swing": f"{KNFU} privacy=[swing] transfer/policy=random_subset",
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


def context_of(partition_id, directory, overrides=KNFU, run_id=7):
    config = {} if partition_id is None else {"partition-id": partition_id}
    return Context(
        run_id, partition_id or 0, config | {"state-dir": str(directory)}, RecordDict(), {"overrides": overrides}
    )


def run(simulation, grid, directory):
    directory.mkdir()
    strategy = simulation.strategy
    initial = strategy.initial(simulation.server)
    serve(Service(simulation.configuration, grid, strategy, simulation.server, directory, initial))
    return [
        {name: value for name, value in line.items() if name != "seconds"} for line in results.read_metrics(directory)
    ]


def same_states(memory, directory):
    """Compare all that a store in memory holds with a directory of files."""
    compared = 0
    for client_id, generations in memory.to_dict().items():
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
    memory = MemoryStore.from_dict(local_grid.state_dict()["clients"])
    compared = 0
    for client in range(3):
        own = MemoryStore.from_dict({client: memory.to_dict()[client]})
        compared += same_states(own, DirectoryStore(tmp_path / f"node-{client}" / "7"))
    assert compared >= 3 * 2 * 6  # clients, generations, tensors


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
    share_and_absorb(context_of(0, tmp_path, run_id=1))
    reply = ask(ABSORB, Request(1).to_record(), context_of(0, tmp_path, run_id=2))
    assert reply["failure"]["code"] == "no-state"


def test_flowers_own_state_keeps_only_the_place_of_the_clients(tmp_path):
    context = context_of(1, tmp_path)
    share_and_absorb(context)
    assert plain(context.state) == {"state": {"directory": str(tmp_path / "7")}}
    assert {path.name for path in (tmp_path / "7").iterdir()} == {
        "client-000001.000001.absorbed.pt",
        "client-000001.000001.shared.pt",
    }
    assert (tmp_path / "7").stat().st_mode & 0o077 == 0


def test_repeated_messages_get_the_same_replies(tmp_path):
    context = context_of(2, tmp_path)
    first = share_and_absorb(context)
    assert share_and_absorb(context) == first
    assert ask(ABSORB, absorb_record(1), context) == first[1]


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
    assert not (tmp_path / "7").exists()


@pytest.mark.parametrize(
    ("runner", "expected"), [("stacked", "stacked"), ("auto", "sequential"), ("sequential", "sequential")]
)
def test_one_client_is_stacked_only_where_that_is_asked_for(runner, expected):
    assert client_app.assemble(KNFU.replace("runner=sequential", f"runner={runner}")).runner == expected


# Whatever comes, an answer goes out, and it tells nothing private


def share_record(**changes):
    return Request(**{"round": 1, "sends": ("soft_labels",), "rows": torch.arange(40)} | changes).to_record()


def with_record(record, name, entry):
    return RecordDict({**dict(record.items()), name: entry})


GARBAGE = {
    "nothing": RecordDict(),
    "other-records": RecordDict({"request": MetricRecord({"round": 1})}),
    "no-number": RecordDict({"request": ConfigRecord({"round": "one"})}),
    "no-list": with_record(
        share_record(),
        "request",
        ConfigRecord({"round": 1, "sends": "{}", "facts": "[]", "fused-round": -1, "carriers": "[]"}),
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
        ConfigRecord({"round": 1, "sends": "[]", "facts": "[]", "fused-round": 0, "carriers": '["weights"]'}),
    ),
    "fused-nan": share_record(fused={"soft_labels": {"soft_labels": torch.full((40, 10), torch.nan)}}, fused_round=0),
}
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


def test_training_that_diverges_is_answered_with_a_failure_and_not_kept(tmp_path):
    context = context_of(0, tmp_path, overrides=f"{KNFU} learn.optimizer.lr=1e30")
    reply = ask(SHARE, share_record(), context)
    assert reply["failure"]["code"] == "diverged"
    assert not list(tmp_path.rglob("*.pt"))


def test_absorb_without_share_is_answered_with_a_failure(tmp_path):
    reply = ask(ABSORB, Request(1).to_record(), context_of(0, tmp_path))
    assert reply == {
        "failure": {"code": "no-state", "text": "there is no state of this client to absorb into"},
    }


@pytest.mark.parametrize("partition_id", [3, -1, None, "first"])
@pytest.mark.parametrize("kind", [DESCRIBE, SHARE, ABSORB])
def test_a_node_without_a_client_of_its_own_fails_and_takes_nobody_elses(partition_id, kind, tmp_path):
    reply = ask(kind, share_record(), context_of(partition_id, tmp_path))
    error = {None: "KeyError", "first": "ValueError"}.get(partition_id, "KeyError")
    assert reply == {"failure": {"code": "failed", "text": f"{error}; the client's own log has the details"}}


@pytest.mark.parametrize("kind", [DESCRIBE, SHARE, ABSORB])
def test_a_mistake_in_the_configuration_is_answered_with_a_failure(kind, tmp_path):
    reply = ask(kind, share_record(), context_of(0, tmp_path, overrides="sed=3"))
    assert reply["failure"]["text"] == "ConfigurationError; the client's own log has the details"


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

    shutil.rmtree(tmp_path / "7")
    (tmp_path / "7").write_text("no directory")
    reply = ask(SHARE, share_record(), context)
    assert reply["failure"]["text"] == "FileExistsError; the client's own log has the details"


def test_facts_that_are_not_allowed_do_not_travel(tmp_path):
    context = context_of(0, tmp_path, overrides=f"{KNFU} share_facts=[]")
    reply, evaluated = share_and_absorb(context, facts=("num_examples",))
    assert "num-examples" not in reply["reply"]
    assert evaluated["metrics"] == {}
    allowed, measured = share_and_absorb(context_of(0, tmp_path, run_id=8), facts=("num_examples",))
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
    del context.node_config["state-dir"]
    share_and_absorb(context)
    assert (tmp_path / ".fedfuse" / "clients" / "7" / "client-000000.000001.absorbed.pt").is_file()


def test_share_and_absorb_write_the_generations_of_their_round(tmp_path):
    context = context_of(0, tmp_path)
    share_and_absorb(context)
    share_and_absorb(context, round=2)
    store = DirectoryStore(tmp_path / "7")
    assert store.load(0, Generation(1, ABSORBED)) is None  # the last two are kept
    shared, absorbed = store.load(0, Generation(2, SHARED)), store.load(0, Generation(2, ABSORBED))
    assert (shared.absorbed_round, absorbed.absorbed_round) == (1, 2)


def absorb_record(round):
    uniform = {"soft_labels": {"soft_labels": torch.full((40, 10), 0.1)}}
    return Request(round, fused=uniform, fused_round=round).to_record()


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


def share_and_absorb(context, round=1, facts=()):
    shared = ask(SHARE, share_record(round=round, facts=facts), context)
    absorbed = ask(ABSORB, absorb_record(round), context)
    assert "failure" not in shared
    assert "failure" not in absorbed
    return shared, absorbed


def assert_tells_nothing_private(reply, directory):
    assert set(reply) == {"failure"}
    assert set(reply["failure"]) == {"code", "text"}
    text = json.dumps(reply)
    for private in (str(directory), "/", "\\", "Traceback", "line ", ".pt", "secrets", "4000"):
        assert private not in text
