import functools
import os
import re
import tempfile
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedfuse import results
from fedfuse.assembly import make_strategy
from fedfuse.checkpoint import FOLDER, SERVER, open_client_states
from fedfuse.client.learn import learn
from fedfuse.client.state import ABSORBED, SHARED, Generation
from fedfuse.composition import compose
from fedfuse.configuration import FACTS
from fedfuse.encoding.compression import compress
from fedfuse.engine import sequential
from fedfuse.engine.local_grid import LocalGrid
from fedfuse.errors import FedfuseError, TooFewClientsError
from fedfuse.knowledge import Fused
from fedfuse.messages import ABSORB, DESCRIBE, SHARE, Reply, Request
from fedfuse.metrics import ClientMetrics
from fedfuse.rounds import Observers, Rounds, RoundSettings
from fedfuse.server_app import Service, serve
from fedfuse.simulate import assemble
from fedfuse.strategy import FusionStrategy
from strategies.knfu import KnFu

BASE = ["num_clients=4", "num_rounds=3", "learn.epochs=1", "absorb.epochs=1", "transfer.size=40"]
BASE += ["engine.runner=sequential", "learn.batch_size=64", "model=[mlp_small]", "strategy=knfu"]


@pytest.fixture(autouse=True)
def no_wait_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)


@functools.cache
def simulation_of(*overrides):
    return assemble(compose([*BASE, *overrides]))


class Wire(LocalGrid):
    """Records what is sent and received; a fault, by kind, round and client, changes one reply into others."""

    def __init__(self, simulation, faults=None):
        super().__init__(simulation.clients, simulation.settings, "sequential")
        self.faults = faults or {}
        self.hidden = set()
        self.sent, self.received = [], []

    def get_node_ids(self):
        return [node for node in super().get_node_ids() if node not in self.hidden]

    def send_and_receive(self, messages, *, timeout=None):
        assert type(messages) is list  # Flower's HTTP grid goes over the messages twice
        replies = []
        for reply in super().send_and_receive(messages):
            kind, round = reply.metadata.message_type, int(reply.metadata.group_id or 0)
            fault = self.faults.get((kind, round, reply.metadata.src_node_id - 1), lambda reply: [reply])
            replies += fault(reply)
        self.sent.append(messages)
        self.received.append(replies)
        return replies

    def requests(self, kind):
        """The requests of one kind: by round, by client."""
        found = {}
        for message in (message for messages in self.sent for message in messages):
            if message.metadata.message_type == kind:
                request = Request.from_record(message.content)
                found.setdefault(request.round, {})[message.metadata.dst_node_id - 1] = request
        return found

    def state(self, client_id, generation):
        return self.store.load(client_id, generation)


def run(simulation, directory, grid=None, strategy=None, **changes):
    """Run all rounds; return the lines of metrics.jsonl, and the knowledge that the strategy saw."""
    grid = grid or Wire(simulation)
    strategy = strategy or make_strategy(simulation.configuration.strategy)
    seen, fuse = [], strategy.fuse

    def recording_fuse(knowledge, server):
        seen.append(knowledge)
        return fuse(knowledge, server)

    strategy.fuse = recording_fuse
    directory.mkdir(exist_ok=True)
    grid.store = open_client_states(directory)
    service = Service(
        **{
            "configuration": simulation.configuration,
            "grid": grid,
            "strategy": strategy,
            "server": simulation.server,
            "directory": directory,
            "promise": simulation.promise,
            "initial": strategy.initial(simulation.server),
            "commit_clients": grid.store.commit,
        }
        | changes
    )
    serve(service)
    return results.read_metrics(directory), seen


@functools.cache
def healthy_run(*overrides):
    with tempfile.TemporaryDirectory() as directory:
        return run(simulation_of(*overrides), Path(directory) / "run")


def without_seconds(lines):
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


# Bad replies


def header(**changes):
    def fault(reply):
        reply.content["reply"] = ConfigRecord({**reply.content["reply"], **changes})
        return [reply]

    return fault


def tensors(change, carrier="soft_labels"):
    """Change the tensors of a carrier, given by name."""

    def fault(reply):
        record = reply.content[f"carrier.{carrier}"]
        own = {name: torch.from_numpy(array.numpy()) for name, array in record.items()}
        changed = {name: Array(tensor.contiguous()) for name, tensor in change(own).items()}
        reply.content[f"carrier.{carrier}"] = ArrayRecord(changed)
        return [reply]

    return fault


def soft_labels(change):
    return tensors(lambda own: own | {"soft_labels": change(own["soft_labels"])})


def numbers(record, **values):
    def fault(reply):
        reply.content[record] = MetricRecord({**reply.content[record], **values})
        return [reply]

    return fault


def content(record):
    def fault(reply):
        reply.content = record
        return [reply]

    return fault


def silence(reply):
    return []


def flower_error(reply):
    failed = Message(Error(20, "/home/alice/data.csv is missing"), reply_to=reply)
    failed.metadata.__dict__["_src_node_id"] = reply.metadata.src_node_id
    return [failed]


NOISE = "noise(bound=5.0, distribution='gaussian', scale=0.05, space='probability'); draws: system"


def other_carrier(reply):
    reply.content["carrier.weights"] = reply.content.pop("carrier.soft_labels")
    return header(carriers='["weights"]')(reply)


def no_carrier(reply):
    reply.content["reply"] = ConfigRecord({k: v for k, v in reply.content["reply"].items() if k != "carriers"})
    return [reply]


def first_entry(value):
    def change(soft_labels):
        soft_labels = soft_labels.clone()
        soft_labels[0, 0] = value
        return soft_labels

    return change


def one_negative(soft_labels):
    changed = soft_labels.clone()
    changed[3] = 0
    changed[3, :2] = torch.tensor([1.01, -0.01])
    return changed


JUNK = ArrayRecord({"soft_labels": Array("float32", (40, 10), "numpy.ndarray", b"junk")})
FAILURE = ConfigRecord({"code": "diverged", "text": "weights are not finite"})
ESCAPES = ConfigRecord({"code": "failed", "text": "\x1b[2J\nround 9/9  personal 100 %" + 500 * "x"})
SUBSET = "transfer/policy=random_subset"
ORACLE, TELLS_LABELS = "strategy=oracle", "share_facts=[num_examples,test_metrics,label_counts]"

# By name: the overrides, the fault, the reason that is given.
ANY_PHASE = {
    "digest": ([], header(**{"transfer-digest": "0123456789abcdef"}), "the reply is on another transfer set"),
    "earlier-round": ([], header(round=1), "the reply is for round 1"),
    "round-of-text": ([], header(round="two"), "round is no integer"),
    "client-id-of-another": ([], header(**{"client-id": 2}), "the reply says it is from client 2"),
    "flower-error": ([], flower_error, "the node failed with error 20"),
    "silence": ([], silence, "gave no reply in time"),
    "failure": (
        [],
        content(RecordDict({"failure": FAILURE})),
        "diverged: weights are not finite",
    ),
    "failure-that-is-none": ([], content(RecordDict({"failure": MetricRecord({})})), "malformed message (KeyError)"),
    "empty": ([], content(RecordDict()), "malformed message (KeyError)"),
    "uncountable": ([], content(RecordDict({"reply": ConfigRecord({"x": []})})), "malformed message (IndexError)"),
    "unknown-verb": ([], numbers("seconds", round=1000.0), "the reply has implausible times"),
    "negative-time": ([], numbers("seconds", learn=-1.0), "the reply has implausible times"),
    "endless-time": ([], numbers("seconds", learn=1e308), "the reply has implausible times"),
    "nan-time": ([], numbers("seconds", learn=float("nan")), "metric learn is no finite number"),
}


def code(change):
    """Change the bytes of encoded soft labels."""

    def changed(own):
        plain = change(own["code"].numpy().tobytes())
        return own | {"code": torch.tensor(list(plain), dtype=torch.uint8)}

    return tensors(changed)


UINT8 = ["encoding=uint8", "strategy=fedmd"]
SHARE_FAULTS = ANY_PHASE | {
    "other-carrier": ([], other_carrier, "sent ['weights'], asked for ['soft_labels']"),
    "no-carrier": ([], no_carrier, "sent [], asked for ['soft_labels']"),
    "carrier-not-there": ([], header(carriers='["soft_labels", "weights"]'), "malformed message (KeyError)"),
    "fewer-classes": (
        [],
        soft_labels(lambda own: own[:, 1:] / own[:, 1:].sum(1, keepdim=True)),
        "soft labels have shape [40, 9], expected [40, 10]",
    ),
    "fewer-rows": ([], soft_labels(lambda own: own[:39]), "soft labels have shape [39, 10], expected [40, 10]"),
    "float16": ([], soft_labels(lambda own: own.half()), "soft labels have type torch.float16"),
    "integers": ([], soft_labels(lambda own: own.round().long()), "soft labels have type torch.int64"),
    "complex": ([], soft_labels(lambda own: own.cfloat()), "soft labels have type torch.complex64"),
    "nan": (
        [],
        soft_labels(first_entry(torch.nan)),
        "soft_labels: soft_labels is not finite, or above 1e12",
    ),
    "infinity": (
        [],
        soft_labels(first_entry(-torch.inf)),
        "soft_labels: soft_labels is not finite, or above 1e12",
    ),
    "sums-above-one": ([], soft_labels(lambda own: 1.01 * own), "soft labels are off the simplex"),
    "negative": ([], soft_labels(one_negative), "soft labels are off the simplex"),
    "more-tensors": ([], tensors(lambda own: own | {"x": torch.ones(1)}), "soft labels came as ['soft_labels', 'x']"),
    "other-rows": (
        [SUBSET],
        tensors(lambda own: own | {"rows": (own["rows"] + 1) % 40}),
        "soft labels are on other transfer rows than were asked for",
    ),
    "no-rows": (
        [SUBSET],
        tensors(lambda own: {"soft_labels": own["soft_labels"]}),
        "soft labels came as ['soft_labels']",
    ),
    "junk-array": (
        [],
        lambda reply: reply.content.update({"carrier.soft_labels": JUNK}) or [reply],
        "malformed message (ValueError)",
    ),
    "count-unasked": (
        [],
        header(**{"num-examples": 100}),
        "told its number of examples unasked, or not although asked",
    ),
    "count-zero": (["strategy=fedavg"], header(**{"num-examples": 0}), "implausible number of examples: 0"),
    "count-negative": (["strategy=fedavg"], header(**{"num-examples": -1}), "implausible number of examples: -1"),
    "count-huge": (
        ["strategy=fedavg"],
        header(**{"num-examples": 2**60}),
        f"implausible number of examples: {2**60}",
    ),
    "protection-missing": (
        ["privacy=[noise]"],
        lambda reply: [reply] if reply.content["reply"].pop("protection") else [],
        f"protected by nothing instead of {NOISE}",
    ),
    "protection-of-another-kind": (
        ["privacy=[noise]"],
        header(protection="noise(scale=0.01); draws: system"),
        f"protected by noise(scale=0.01); draws: system instead of {NOISE}",
    ),
    "protection-unasked": ([], header(protection="x" * 200), f"protected by {'x' * 120} instead of nothing"),
    "label-counts-unasked": (
        [],
        header(**{"label-counts": "[1, 2]"}),
        "told its label counts unasked, or not although asked",
    ),
    "label-counts-missing": (
        [ORACLE, TELLS_LABELS],
        lambda reply: [reply] if reply.content["reply"].pop("label-counts") else [],
        "told its label counts unasked, or not although asked",
    ),
    "label-counts-of-fewer-classes": (
        [ORACLE, TELLS_LABELS],
        header(**{"label-counts": "[3, 4]"}),
        "told 2 label counts",
    ),
    "densities-on-other-rows": (
        [SUBSET, "strategy=density_weighted"],
        tensors(lambda own: own | {"rows": (own["rows"] + 1) % 40}, "densities"),
        "densities are on other transfer rows than were asked for",
    ),
    "densities-infinite": (
        ["strategy=density_weighted"],
        tensors(lambda own: own | {"densities": own["densities"] * torch.inf}, "densities"),
        "densities: densities is not finite, or above 1e12",
    ),
    "class-logits-of-fewer-classes": (
        ["strategy=fd"],
        tensors(lambda own: own | {"class_logits": own["class_logits"][:, 1:]}, "class_logits"),
        "class logits have shape [10, 9], expected [10, 10]",
    ),
    "weights-missing": (
        ["strategy=fedavg"],
        tensors(lambda own: dict(list(own.items())[1:]), "weights"),
        "weights do not have the names and shapes of the client's architecture",
    ),
    "weights-complex": (
        ["strategy=fedavg"],
        tensors(lambda own: {name: tensor.cfloat() * torch.nan for name, tensor in own.items()}, "weights"),
        "weights have type torch.complex64",
    ),
    "weights-nan": (
        ["strategy=fedavg"],
        tensors(lambda own: {name: tensor / 0 for name, tensor in own.items()}, "weights"),
        "weights: body.1.weight is not finite, or above 1e12",
    ),
    "prototypes-of-another-width": (
        ["strategy=fedproto"],
        tensors(lambda own: own | {"prototypes": own["prototypes"][:, :5]}, "prototypes"),
        "prototypes have shape [10, 5], expected [10, ",
    ),
    "prototype-mask-of-numbers": (
        ["strategy=fedproto"],
        tensors(lambda own: own | {"mask": own["mask"].float()}, "prototypes"),
        "prototypes have the wrong type",
    ),
    "encoded-cut-short": (UINT8, code(lambda stream: stream[:-1]), "soft labels do not decompress to 400 bytes"),
    "encoded-bomb": (UINT8, code(lambda stream: compress(bytes(2**22))), "soft labels do not decompress to 400 bytes"),
    "encoded-no-class": (UINT8, code(lambda stream: compress(b"\x0a" * 400)), "soft labels name a class that there is"),
    "encoded-too-much": (
        UINT8,
        code(lambda stream: compress(bytes(40) + b"\xff" * 360)),
        "the levels of soft labels are more than there are",
    ),
    "encoded-off-the-simplex": (
        ["encoding=float16", "strategy=fedmd"],
        code(lambda stream: compress(bytes(800))),
        "soft labels are off the simplex",
    ),
    "encoded-not-finite": (
        ["encoding=float16", "strategy=fedmd"],
        code(lambda stream: compress(b"\xff" * 800)),
        "soft labels are not finite",
    ),
    "encoded-other-rows": (
        [*UINT8, SUBSET],
        tensors(lambda own: own | {"rows": own["rows"].roll(1)}),
        "soft labels ",
    ),
    "not-encoded": (
        UINT8,
        tensors(lambda own: {"soft_labels": torch.full((40, 10), 0.1)}),
        "encoded soft labels came as ['soft_labels']",
    ),
    "encoded-unasked": (
        ["strategy=fedmd"],
        tensors(lambda own: {"code": torch.zeros(400, dtype=torch.uint8)}),
        "soft labels came as ['code']",
    ),
}


@pytest.mark.parametrize("name", SHARE_FAULTS)
def test_a_bad_reply_in_share_is_named_and_the_others_go_on(name, tmp_path):
    overrides, fault, reason = SHARE_FAULTS[name]
    simulation = simulation_of(*overrides)
    grid = Wire(simulation, {(SHARE, 2, 1): fault})
    lines, seen = run(simulation, tmp_path / "run", grid)

    assert [line["round"] for line in lines] == [1, 2, 3]
    (left_out,) = lines[1]["left_out"]
    assert (left_out["client_id"], left_out["phase"]) == (1, "share")
    assert left_out["reason"].startswith(reason)
    assert lines[0]["left_out"] == lines[2]["left_out"] == []
    assert [line["participants"] for line in lines] == [4, 3, 4]
    # The strategy saw what the others sent, as they would have sent it anyway, and nothing else.
    healthy_seen = healthy_run(*overrides)[1]
    assert [knowledge.client_ids for knowledge in seen] == [(0, 1, 2, 3), (0, 2, 3), (0, 1, 2, 3)]
    assert [knowledge.round for knowledge in seen] == [1, 2, 3]
    for carrier, stacked in seen[1].tensors.items():
        for tensor_name, tensor in stacked.items():
            assert torch.equal(tensor, healthy_seen[1].tensor(carrier, tensor_name)[[0, 2, 3]])
    # Only those that shared absorb.
    assert sorted(grid.requests(ABSORB)[2]) == [0, 2, 3]
    assert [client.client_id for client in results.read_clients(tmp_path / "run")[2]] == [0, 2, 3]


ABSORB_FAULTS = ANY_PHASE | {
    "above-one": ([], numbers("metrics", personal_accuracy=1.5), "personal_accuracy 1.5 is out of range"),
    "below-zero": ([], numbers("metrics", general_accuracy=-0.25), "general_accuracy -0.25 is out of range"),
    "nan": ([], numbers("metrics", validation_accuracy=float("nan")), "metric validation_accuracy is no finite number"),
    "infinite-loss": ([], numbers("metrics", personal_loss=float("inf")), "metric personal_loss is no finite number"),
    "list": ([], numbers("metrics", personal_accuracy=[0.5, 0.5]), "metric personal_accuracy is no finite number"),
    "no-metrics": (
        [],
        lambda reply: [reply] if reply.content.pop("metrics") is not None else [],
        "malformed message (KeyError)",
    ),
}


@pytest.mark.parametrize("name", ABSORB_FAULTS)
def test_a_bad_reply_in_absorb_is_named_and_the_others_go_on(name, tmp_path):
    overrides, fault, reason = ABSORB_FAULTS[name]
    simulation = simulation_of(*overrides)
    lines, seen = run(simulation, tmp_path / "run", Wire(simulation, {(ABSORB, 2, 1): fault}))

    assert [line["left_out"] for line in lines] == [[], [{"client_id": 1, "phase": "absorb", "reason": reason}], []]
    assert [line["participants"] for line in lines] == [4, 3, 4]
    assert [knowledge.client_ids for knowledge in seen] == 3 * [(0, 1, 2, 3)]
    clients = results.read_clients(tmp_path / "run")
    assert [client.client_id for client in clients[2]] == [0, 2, 3]
    healthy = without_seconds(healthy_run()[0])
    personal = [client.personal_accuracy for client in clients[2]]
    assert lines[1]["personal_mean"] == pytest.approx(sum(personal) / 3, abs=1e-12)
    # Client 1 had absorbed, so nothing of what follows changes.
    assert without_seconds(lines)[2]["personal_mean"] == healthy[2]["personal_mean"]


def test_a_reason_cannot_control_a_terminal_or_fill_a_file(tmp_path):
    simulation = simulation_of()
    fault = content(RecordDict({"failure": ESCAPES}))
    lines, _ = run(simulation, tmp_path / "run", Wire(simulation, {(SHARE, 1, 1): fault}))
    reason = lines[0]["left_out"][0]["reason"]
    assert reason.startswith("failed:  [2J round 9/9  personal 100 %xxx")
    assert reason.isprintable()
    long = tensors(lambda own: own | {100_000 * "x": torch.ones(1)})
    lines, _ = run(simulation, tmp_path / "long", Wire(simulation, {(SHARE, 1, 1): long}))
    assert lines[0]["left_out"][0]["reason"] == ("soft labels came as ['soft_labels', '" + 300 * "x")[:300]


def test_exceptions_texts_of_clients_do_not_reach_the_metrics(tmp_path):
    simulation = simulation_of()
    run(simulation, tmp_path / "run", Wire(simulation, {(SHARE, 2, 1): flower_error}))
    assert "alice" not in (tmp_path / "run" / results.METRICS_FILE).read_text()


def twice(reply):
    return [reply, reply]


def first_good_then_bad(reply):
    bad = Message(RecordDict(), reply_to=reply)
    bad.metadata.__dict__["_src_node_id"] = reply.metadata.src_node_id
    return [reply, bad]


def also_from_an_unknown_node(reply):
    forged = Message(reply.content, reply_to=reply)
    forged.metadata.__dict__["_src_node_id"] = 99
    return [forged, reply]


@pytest.mark.parametrize("fault", [twice, first_good_then_bad, also_from_an_unknown_node])
@pytest.mark.parametrize("kind", [SHARE, ABSORB])
def test_one_reply_of_each_client_that_was_asked_counts(fault, kind, tmp_path):
    simulation = simulation_of()
    lines, seen = run(simulation, tmp_path / "run", Wire(simulation, {(kind, 2, 1): fault}))
    assert without_seconds(lines) == without_seconds(healthy_run()[0])
    assert torch.equal(seen[2].soft_labels, healthy_run()[1][2].soft_labels)


def test_a_client_that_was_not_asked_this_round_is_not_heard(tmp_path):
    simulation = simulation_of("fraction=0.5")
    healthy, healthy_seen = run(simulation, tmp_path / "healthy")
    first, other = healthy_seen[1].client_ids
    (absent, *_) = set(range(4)) - {first, other}

    def also_from_another(reply):
        forged = Message(reply.content, reply_to=reply)
        forged.metadata.__dict__["_src_node_id"] = absent + 1
        forged.content["reply"] = ConfigRecord({**reply.content["reply"], "client-id": absent})
        return [forged, reply]

    grid = Wire(simulation, {(SHARE, 2, other): lambda reply: [*also_from_another(reply)[:1]]})
    lines, seen = run(simulation, tmp_path / "run", grid)
    assert seen[1].client_ids == (first,)
    assert lines[1]["left_out"] == [{"client_id": other, "phase": "share", "reason": "gave no reply in time"}]
    assert healthy[1]["left_out"] == []


def test_a_client_whose_work_fails_takes_nobody_with_it(tmp_path):
    class Broken:
        def __len__(self):
            raise OSError("/home/alice/data.csv is gone")

        labels = inputs = torch.zeros(1)

    simulation = simulation_of()
    clients = list(simulation.clients)
    clients[2] = replace(clients[2], data=replace(clients[2].data, train=Broken()))
    lines, seen = run(simulation, tmp_path / "run", Wire(replace(simulation, clients=tuple(clients))))
    reason = "failed: OSError; the client's own log has the details"
    assert [line["left_out"] for line in lines] == 3 * [[{"client_id": 2, "phase": "share", "reason": reason}]]
    assert [knowledge.client_ids for knowledge in seen] == 3 * [(0, 1, 3)]


# Too few clients


@pytest.mark.parametrize("kind", [SHARE, ABSORB])
def test_too_few_clients_stop_the_run_which_can_be_continued(kind, tmp_path):
    simulation = simulation_of("min_clients=3")
    faults = {(kind, 2, 1): silence, (kind, 2, 3): flower_error}
    phase = kind.removeprefix("train.")
    with pytest.raises(TooFewClientsError) as stopped:
        run(simulation, tmp_path / "run", Wire(simulation, faults))
    assert stopped.value.exit_code == 1
    text = str(stopped.value)
    assert text.startswith(f"Round 2, {phase}: 2 of 4 clients gave a valid reply, min_clients=3. ")
    assert "3: the node failed with error 20; " in text
    assert text.endswith("1: gave no reply in time")
    assert [line["round"] for line in results.read_metrics(tmp_path / "run")] == [1]

    lines, _ = run(simulation, tmp_path / "run")
    assert without_seconds(lines) == without_seconds(healthy_run()[0])
    assert all(line["left_out"] == [] for line in lines)


def test_exactly_enough_clients_are_enough(tmp_path):
    simulation = simulation_of("min_clients=3")
    lines, _ = run(simulation, tmp_path / "run", Wire(simulation, {(SHARE, 2, 1): silence}))
    assert len(lines) == 3


def test_no_clients_at_all_is_too_few(tmp_path):
    simulation = simulation_of()
    grid = Wire(simulation)

    def all_gone(metrics):
        grid.hidden = {1, 2, 3, 4}

    with pytest.raises(
        TooFewClientsError, match=r"^Round 2, share: 0 of 0 clients gave a valid reply, min_clients=1\. $"
    ):
        run(simulation, tmp_path / "run", grid, round_finished=all_gone)


# What a strategy returns


def returning(**hooks):
    class Bad(FusionStrategy):
        sends = returns = frozenset({"soft_labels"})

    for name, hook in hooks.items():
        setattr(Bad, name, hook)
    return Bad()


def fusing(soft_labels=(40, 10), mask=(40,), dtype=torch.bool, scale=0.1, carrier="soft_labels", **more):
    def fuse(self, knowledge, server):
        own = {"soft_labels": torch.full(soft_labels, scale), "mask": torch.ones(mask, dtype=dtype)}
        return Fused.for_all(**{carrier: own}, **more)

    return {"fuse": fuse}


def matrix(hook, make):
    return {hook: lambda self, knowledge: make(len(knowledge), 40)}


FORM = "fuse returned bad knowledge: soft labels need soft_labels [M, C] and a bool mask [M] for each client."
SIMPLEX = "fuse returned bad knowledge: soft labels are off the simplex."
NEGATIVE = "returned a negative number or a NaN."
BAD_STRATEGIES = {
    "relate-nan": (matrix("relate", lambda n, m: torch.full((n, n), torch.nan)), f"relate {NEGATIVE}"),
    "relate-negative": (matrix("relate", lambda n, m: 2 * torch.eye(n) - 1 / n), f"relate {NEGATIVE}"),
    "relate-shape": (matrix("relate", lambda n, m: torch.ones(n, m) / m), "relate returned [4, 40], expected [4, 4]."),
    "relate-rows": (
        matrix("relate", lambda n, m: torch.ones(n, n)),
        "relate returned rows that do not sum to one (off by up to 3).",
    ),
    "weigh-nan": (matrix("weigh", lambda n, m: torch.full((n, m), torch.nan)), f"weigh {NEGATIVE}"),
    "weigh-negative": (matrix("weigh", lambda n, m: -torch.ones(n, m)), f"weigh {NEGATIVE}"),
    "weigh-shape": (matrix("weigh", lambda n, m: torch.ones(n)), "weigh returned [4], expected [4, 40]."),
    "fuse-nothing": ({"fuse": lambda self, k, s: None}, "fuse returned bad knowledge: it is NoneType, not Fused."),
    "fuse-nan": (
        fusing(scale=torch.nan),
        "fuse returned bad knowledge: soft_labels: soft_labels is not finite, or above 1e12.",
    ),
    "fuse-shape": (fusing(soft_labels=(10, 40)), FORM),
    "fuse-mask-shape": (fusing(mask=(39,)), FORM),
    "fuse-mask-type": (fusing(dtype=torch.float32), FORM),
    "fuse-rows": (fusing(scale=0.2), SIMPLEX),
    "fuse-negative": (
        {
            "fuse": lambda self, k, s: Fused.for_all(
                soft_labels={
                    "soft_labels": torch.tensor([[1.01, -0.01] + 8 * [0.0]]).repeat(40, 1),
                    "mask": torch.ones(40, dtype=torch.bool),
                }
            )
        },
        SIMPLEX,
    ),
    "fuse-carrier": (
        fusing(carrier="weights"),
        "fuse returned bad knowledge: ['weights'], but returns says ['soft_labels'].",
    ),
    "fuse-relevance-shape": (
        fusing(relevance=torch.ones(3, 3) / 3),
        "fuse returned bad knowledge: relevance must be finite and of shape [4, 4].",
    ),
    "fuse-relevance-nan": (
        fusing(relevance=torch.full((4, 4), torch.nan)),
        "fuse returned bad knowledge: relevance must be finite and of shape [4, 4].",
    ),
    "fuse-unknown-client": (
        {
            "fuse": lambda self, k, s: Fused.for_each(
                [7],
                soft_labels={
                    "soft_labels": torch.full((1, 40, 10), 0.1),
                    "mask": torch.ones(1, 40, dtype=torch.bool),
                },
            )
        },
        "fuse returned bad knowledge: there is no client 7.",
    ),
    "fuse-personal-rows": (
        {
            "fuse": lambda self, k, s: Fused.for_each(
                k.client_ids, soft_labels={"soft_labels": k.soft_labels + 0.1, "mask": k.mask}
            )
        },
        SIMPLEX,
    ),
    "fuse-weights": (
        {
            "sends": frozenset({"weights"}),
            "returns": frozenset({"weights"}),
            "fuse": lambda self, k, s: Fused.for_all(weights={"head.bias": torch.zeros(10)}),
        },
        "fuse returned bad knowledge: weights do not have the names and shapes of the client's architecture.",
    ),
}


@pytest.mark.parametrize("name", BAD_STRATEGIES)
def test_a_strategy_that_returns_what_cannot_be_used_is_named(name, tmp_path):
    hooks, text = BAD_STRATEGIES[name]
    simulation = simulation_of()
    grid = Wire(simulation)
    with pytest.raises(FedfuseError) as stopped:
        run(simulation, tmp_path / "run", grid, returning(**hooks))
    assert str(stopped.value) == f"Bad.{text}"
    assert stopped.value.exit_code == 1
    assert grid.requests(ABSORB) == {}
    assert (tmp_path / "run" / FOLDER / SERVER).is_file()


def test_a_strategy_that_leaves_rows_out_teaches_only_the_others(tmp_path):
    def fuse(self, knowledge, server):
        mask = torch.arange(40) < 10
        soft_labels = torch.where(mask.unsqueeze(1), 0.1, torch.tensor(7.0)).expand(40, 10)
        return Fused.for_all(soft_labels={"soft_labels": soft_labels, "mask": mask})

    simulation = simulation_of()
    grid = Wire(simulation)
    lines, _ = run(simulation, tmp_path / "run", grid, returning(fuse=fuse))
    assert all(line["left_out"] == [] for line in lines)
    fused = grid.requests(ABSORB)[1][0].fused["soft_labels"]
    assert torch.equal(fused["rows"], torch.arange(10, dtype=torch.int32))
    assert torch.equal(fused["soft_labels"], torch.full((10, 10), 0.1))


def test_a_strategy_that_weighs_everything_with_nothing_teaches_nothing(tmp_path):
    simulation = simulation_of()
    grid = Wire(simulation)
    strategy = returning(**matrix("weigh", torch.zeros))
    lines, _ = run(simulation, tmp_path / "run", grid, strategy)
    local, _ = run(simulation_of("strategy=local"), tmp_path / "local")
    assert [line["personal_mean"] for line in lines] == [line["personal_mean"] for line in local]
    assert len(grid.requests(ABSORB)[1][0].fused["soft_labels"]["rows"]) == 0
    _, relevance, _ = results.read_latest_relevance(tmp_path / "run")
    assert (relevance == 0).all()


def test_a_client_at_the_edge_of_what_it_may_send_cannot_stop_a_strategy_that_passes_it_on(tmp_path):
    def fuse(self, knowledge, server):
        rounded_up = knowledge.soft_labels * 1.0005
        return Fused.for_each(knowledge.client_ids, soft_labels={"soft_labels": rounded_up, "mask": knowledge.mask})

    simulation = simulation_of()
    faults = {(SHARE, 1, 1): soft_labels(lambda own: own * 1.0009)}
    lines, _ = run(simulation, tmp_path / "run", Wire(simulation, faults), returning(fuse=fuse))
    assert all(line["left_out"] == [] for line in lines)


# Messages and bytes


@pytest.mark.parametrize("strategy", ["knfu", "fedmd", "fedproto", "fedavg", "local"])
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_there_are_as_many_messages_as_participants_and_bytes_are_what_they_hold(strategy, fraction, tmp_path):
    simulation = simulation_of(f"strategy={strategy}", f"fraction={fraction}", SUBSET)
    grid = Wire(simulation)
    lines, seen = run(simulation, tmp_path / "run", grid)

    kinds = [messages[0].metadata.message_type for messages in grid.sent]
    assert kinds == [DESCRIBE, *3 * [SHARE, ABSORB]]
    assert [len(messages) for messages in grid.sent] == [4, *6 * [4 * fraction]]
    for round in (1, 2, 3):
        participants = seen[round - 1].client_ids
        assert tuple(sorted(grid.requests(SHARE)[round])) == participants
        assert tuple(sorted(grid.requests(ABSORB)[round])) == participants
        for request in grid.requests(SHARE)[round].values():
            assert (request.rows is None) == (strategy not in ("knfu", "fedmd"))
        phases = slice(2 * round - 1, 2 * round + 1)
        for sent_or_received, name in ((grid.sent, "bytes_down"), (grid.received, "bytes_up")):
            messages = [message for phase in sent_or_received[phases] for message in phase]
            assert all(message.metadata.group_id == str(round) for message in messages)
            held = sum(entry.count_bytes() for message in messages for entry in message.content.values())
            assert lines[round - 1][name] == held


def test_soft_labels_cost_what_their_numbers_take(tmp_path):
    lines, _ = healthy_run()
    numbers = 4 * 40 * 10 * 4  # clients, samples, classes, bytes
    assert numbers < lines[0]["bytes_up"] < numbers + 4 * 1000
    assert numbers < lines[0]["bytes_down"] < numbers + 4 * 1000


def test_encoded_soft_labels_cost_what_their_bytes_take(tmp_path):
    lines, _ = run(simulation_of("encoding={name: uint8, compressed: false}"), tmp_path / "run")
    as_they_are, _ = healthy_run()
    saved = 4 * 40 * 10 * 3  # clients, samples, classes, bytes
    rows = 4 * (40 * 8 - 5)  # a bit each
    for name, expected in (("bytes_up", saved), ("bytes_down", saved + rows)):
        # What Flower writes beside the numbers, such as their type, is a little different.
        assert as_they_are[0][name] - lines[0][name] == pytest.approx(expected, abs=4 * 40)


@pytest.mark.parametrize("overrides", [[], [SUBSET]])
def test_a_strategy_sees_and_clients_absorb_what_was_quantised(overrides, tmp_path):
    simulation = simulation_of("strategy=fedmd", "encoding=uint8", "privacy=[swing]", *overrides)
    grid = Wire(simulation)
    _, seen = run(simulation, tmp_path / "run", grid)
    _, as_they_are = healthy_run("strategy=fedmd", "privacy=[swing]", *overrides)
    for knowledge in seen:
        levels = knowledge.soft_labels[knowledge.mask] * 510
        assert (levels - levels.round()).abs().max() < 1e-3
        assert (levels.sum(1) - 510).abs().max() < 1e-3
    # Before anything came back only the encoding makes a difference.
    assert (seen[0].soft_labels - as_they_are[0].soft_labels).abs().max() < 1 / 510
    assert not torch.equal(seen[0].soft_labels, as_they_are[0].soft_labels)
    # The reference of a protector is what the client received.
    received = grid.state(1, Generation(3, ABSORBED)).received["soft_labels"]
    levels = received["soft_labels"][received["rows"]] * 510
    assert (levels - levels.round()).abs().max() < 1e-3


@pytest.mark.parametrize("encoding", ["float16", "uint8", "top_k", "hard"])
def test_a_run_with_encoded_soft_labels_resumes_as_if_never_stopped(encoding, tmp_path):
    overrides = ["strategy=knfu", f"encoding={encoding}", SUBSET, "fraction=0.5"]
    simulation = simulation_of(*overrides)
    whole, _ = run(simulation, tmp_path / "whole")
    stop_in_absorb(simulation, tmp_path / "run", 2)
    resumed, _ = run(simulation, tmp_path / "run")
    assert without_seconds(resumed) == without_seconds(whole)


def test_both_runners_exchange_the_same_levels(tmp_path):
    seen = {}
    for runner in ("sequential", "stacked"):
        simulation = simulation_of("encoding=uint8", "engine.precision=float64")
        grid = Wire(simulation)
        grid._runner = runner
        _, seen[runner] = run(simulation, tmp_path / runner, grid)
    for one, other in zip(seen["sequential"], seen["stacked"], strict=True):
        torch.testing.assert_close(one.soft_labels, other.soft_labels, rtol=0, atol=1e-9)


def test_requests_ask_for_the_same_rows_of_everybody_and_others_each_round():
    simulation = simulation_of(SUBSET, "strategy=fedmd")
    rounds = Rounds(RoundSettings(0, 4, 1.0, 1, frozenset()), simulation.server, Observers())
    grid = Wire(simulation)
    rounds.prepare(grid, 1, None)
    rounds.roster.describe_new_nodes(grid, 1)
    strategy = make_strategy(simulation.configuration.strategy)
    rows = [
        [Request.from_record(message.content).rows for message in rounds.share_messages(strategy, round)]
        for round in (1, 2)
    ]
    assert all(torch.equal(own, rows[0][0]) for own in rows[0])
    assert len(rows[0][0]) == len(rows[1][0]) == 20
    assert not torch.equal(rows[0][0], rows[1][0])


@pytest.mark.parametrize(("sends", "rows"), [({"densities"}, 40), ({"soft_labels"}, 40), ({"prototypes"}, None)])
def test_rows_are_asked_for_where_something_of_the_transfer_set_is_sent(sends, rows):
    simulation = simulation_of()
    rounds = Rounds(RoundSettings(0, 4, 1.0, 1, frozenset()), simulation.server, Observers())
    rounds.roster.describe_new_nodes(Wire(simulation), 1)
    strategy = type("Mine", (FusionStrategy,), {"sends": sends})()
    for message in rounds.share_messages(strategy, 1):
        asked = Request.from_record(message.content).rows
        assert (None if asked is None else len(asked)) == rows


def asking(chosen):
    """A strategy that asks for what a function makes of the rows that the policy chose."""
    return type("Mine", (FusionStrategy,), {"sends": {"soft_labels"}, "ask": lambda self, rows, round: chosen(rows)})()


def test_a_strategy_may_ask_for_some_of_the_rows_that_the_policy_chose():
    simulation = simulation_of(SUBSET)
    rounds = Rounds(RoundSettings(0, 4, 1.0, 1, frozenset()), simulation.server, Observers())
    rounds.roster.describe_new_nodes(Wire(simulation), 1)
    whole, some = (
        [Request.from_record(message.content).rows for message in rounds.share_messages(asking(chosen), 1)]
        for chosen in (lambda rows: rows, lambda rows: rows[3:8])
    )
    assert all(torch.equal(own, whole[0][3:8]) for own in some)


@pytest.mark.parametrize(
    "chosen",
    [lambda rows: rows[:0], lambda rows: rows[[0, 0]], lambda rows: torch.tensor([40]), lambda rows: rows.unsqueeze(0)],
    ids=["none", "one twice", "another", "not a list"],
)
def test_a_strategy_that_asks_for_no_rows_or_for_others_is_stopped(chosen):
    simulation = simulation_of(SUBSET)
    rounds = Rounds(RoundSettings(0, 4, 1.0, 1, frozenset()), simulation.server, Observers())
    rounds.roster.describe_new_nodes(Wire(simulation), 1)
    with pytest.raises(FedfuseError, match=r"^Mine\.ask must return some of the 20 rows it was given\.$"):
        rounds.share_messages(asking(chosen), 1)


class Remembering:
    """A transfer policy that notes the past it is shown, and leaves the choice to another one."""

    def __init__(self, policy):
        self.policy, self.pasts = policy, []

    def __call__(self, past, generator):
        self.pasts.append(past)
        return self.policy(past, generator)


def remembering(simulation):
    policy = Remembering(simulation.server.transfer_rows)
    return policy, replace(simulation.server, transfer_rows=policy)


def test_a_policy_is_shown_what_clients_answered_and_what_was_asked_for_last(tmp_path):
    simulation = simulation_of("transfer/policy=class_balanced", "transfer.policy.fraction=0.3", "fraction=0.5")
    policy, server = remembering(simulation)
    _, seen = run(simulation, tmp_path / "run", server=server)
    first, second, third = policy.pasts
    assert first.answers is None
    assert not first.known.any()
    assert not first.asked.any()
    assert first.num_samples == 40
    # The mean over the two clients of the round, uniform in the rows of which nobody said anything.
    rows = [knowledge.mask[0] for knowledge in seen]
    assert [own.sum().item() for own in rows] == [12, 12, 12]
    mean = seen[0].soft_labels.mean(0)
    torch.testing.assert_close(second.answers[rows[0]], mean[rows[0]], rtol=0, atol=1e-6)
    assert (second.answers[~rows[0]] == 0.1).all()
    assert torch.equal(second.known, rows[0])
    assert torch.equal(second.asked, rows[0])
    # Later answers take the place of earlier ones.
    mean = seen[1].soft_labels.mean(0)
    torch.testing.assert_close(third.answers[rows[1]], mean[rows[1]], rtol=0, atol=1e-6)
    assert torch.equal(third.answers[rows[0] & ~rows[1]], second.answers[rows[0] & ~rows[1]])
    assert torch.equal(third.known, rows[0] | rows[1])
    assert torch.equal(third.asked, rows[1])
    assert not torch.equal(rows[0], rows[1])


def test_what_a_strategy_did_not_ask_for_stays_unknown(tmp_path):
    simulation = simulation_of("strategy=fedmd", "num_rounds=2")
    strategy = make_strategy(simulation.configuration.strategy)
    strategy.ask = lambda rows, round: rows[5:8]
    policy, server = remembering(simulation)
    run(simulation, tmp_path / "run", strategy=strategy, server=server)
    assert policy.pasts[1].known.nonzero().flatten().tolist() == [5, 6, 7]
    assert policy.pasts[1].asked.nonzero().flatten().tolist() == [5, 6, 7]


@pytest.mark.parametrize("policy", ["class_balanced", "pcoreset"])
@pytest.mark.parametrize("strategy", ["fedproto", "fedavg", "local"])
def test_without_soft_labels_a_policy_has_no_past_and_chooses_all_the_same(strategy, policy, tmp_path):
    budget = ["transfer.policy.budget=7"] if policy == "pcoreset" else ["transfer.policy.fraction=0.15"]
    simulation = simulation_of(f"strategy={strategy}", f"transfer/policy={policy}", *budget)
    chosen = []
    choose, server = remembering(simulation)
    whole = choose.policy
    choose.policy = lambda past, generator: chosen.append(whole(past, generator)) or chosen[-1]
    lines, _ = run(simulation, tmp_path / "run", server=server)
    assert len(lines) == 3
    for past in choose.pasts:
        assert past.answers is None
        assert not past.known.any()
        assert not past.asked.any()
    assert [len(rows) for rows in chosen] == [len(chosen[0])] * 3 == [7 if policy == "pcoreset" else 6] * 3
    assert len({tuple(rows.tolist()) for rows in chosen}) == 3


def test_the_past_is_the_same_after_a_resume_between_the_phases_of_a_round(tmp_path):
    simulation = simulation_of("transfer/policy=pcoreset", "transfer.policy.budget=9")
    whole, server = remembering(simulation)
    run(simulation, tmp_path / "whole", server=server)
    stop_in_absorb(simulation, tmp_path / "run", 2)
    resumed, server = remembering(simulation)
    run(simulation, tmp_path / "run", server=server)
    # Round 2 was asked for before the stop.
    (again,) = resumed.pasts
    assert all(torch.equal(value, vars(whole.pasts[2])[name]) for name, value in vars(again).items())
    assert again.known.sum() > 9


def test_only_facts_that_the_strategy_needs_and_the_configuration_allows_are_asked_for(tmp_path):
    for overrides, facts in (
        (["strategy=fedavg"], ("num_examples",)),
        (["strategy=fedavg", "share_facts=[test_metrics]"], ()),
        (["strategy=knfu"], ()),
        ([ORACLE, TELLS_LABELS], ("label_counts",)),
        ([ORACLE], ()),
    ):
        simulation = assemble_unchecked(*overrides)
        rounds = Rounds(
            RoundSettings(0, 4, 1.0, 1, frozenset(simulation.configuration.share_facts)), simulation.server, Observers()
        )
        rounds.roster.describe_new_nodes(Wire(simulation), 1)
        (first, *_) = rounds.share_messages(make_strategy(simulation.configuration.strategy), 1)
        assert Request.from_record(first.content).facts == facts


def assemble_unchecked(*overrides):
    others = [override for override in overrides if "share_facts" not in override]
    simulation = simulation_of(*others, f"share_facts=[{','.join(FACTS)}]")
    return replace(simulation, configuration=compose([*BASE, *overrides]))


# Catching up


@pytest.mark.parametrize("strategy", ["fedmd", "fedavg"])
def test_who_was_away_gets_the_newest_common_knowledge_and_who_was_there_nothing_twice(strategy, tmp_path):
    simulation = simulation_of(f"strategy={strategy}", "fraction=0.5", "num_rounds=6", "seed=2")
    grid = Wire(simulation)
    _, seen = run(simulation, tmp_path / "run", grid)
    share, absorb = grid.requests(SHARE), grid.requests(ABSORB)

    newest_absorbed = {}
    caught_up = 0
    for round in range(1, 7):
        participants = seen[round - 1].client_ids
        newest = round - 1 if round > 1 or strategy == "fedavg" else -1
        for client in participants:
            behind = newest_absorbed.get(client, -1) < newest
            assert share[round][client].fused_round == (newest if behind else -1)
            if behind and newest > 0:
                caught_up += 1
                expected = next(iter(absorb[newest].values())).fused
                (carrier,) = expected
                for name, tensor in expected[carrier].items():
                    assert torch.equal(share[round][client].fused[carrier][name], tensor)
            elif not behind:
                assert share[round][client].fused is None
            # This round's own comes once, with absorb.
            assert absorb[round][client].fused_round == round
            newest_absorbed[client] = round
    assert caught_up >= 3
    if strategy == "fedavg":
        initial = make_strategy(simulation.configuration.strategy).initial(simulation.server).common["weights"]
        for request in share[1].values():
            assert all(torch.equal(request.fused["weights"][name], tensor) for name, tensor in initial.items())


def test_who_was_away_absorbs_before_it_learns(tmp_path):
    simulation = simulation_of("strategy=fedavg", "fraction=0.5", "num_rounds=2", "seed=2")
    grid = Wire(simulation)
    _, seen = run(simulation, tmp_path / "run", grid)
    newcomer = next(client for client in seen[1].client_ids if client not in seen[0].client_ids)
    request = grid.requests(SHARE)[2][newcomer]
    assert request.fused_round == 1

    shared = grid.state(newcomer, Generation(2, SHARED))
    start = replace(shared, parameters=request.fused["weights"], objective_state={})
    (expected,) = learn([simulation.clients[newcomer]], [start], 2, simulation.settings, sequential.fit)
    assert all(torch.equal(shared.parameters[name], tensor) for name, tensor in expected.parameters.items())
    assert shared.absorbed_round == 1


def lost_on_the_way(grid, round, client):
    """Lose the absorb message of one client before it arrives."""
    send_and_receive = grid.send_and_receive

    def losing(messages, *, timeout=None):
        kept = [
            message
            for message in messages
            if (message.metadata.message_type, message.metadata.group_id, message.metadata.dst_node_id)
            != (ABSORB, str(round), client + 1)
        ]
        return send_and_receive(kept)

    grid.send_and_receive = losing


@pytest.mark.parametrize("strategy", ["knfu", "fedavg"])
@pytest.mark.parametrize("lost", ["message", "reply"])
def test_knowledge_that_was_not_confirmed_is_sent_again_and_absorbed_once(strategy, lost, tmp_path):
    simulation = simulation_of(f"strategy={strategy}")
    grid = Wire(simulation, {(ABSORB, 1, 1): silence} if lost == "reply" else {})
    if lost == "message":
        lost_on_the_way(grid, 1, 1)
    lines, seen = run(simulation, tmp_path / "run", grid)
    healthy, healthy_seen = healthy_run(f"strategy={strategy}")

    assert lines[0]["left_out"] == [{"client_id": 1, "phase": "absorb", "reason": "gave no reply in time"}]
    share = grid.requests(SHARE)
    assert {client: request.fused_round for client, request in share[2].items()} == {0: -1, 1: 1, 2: -1, 3: -1}
    assert {client: request.fused_round for client, request in share[3].items()} == dict.fromkeys(range(4), -1)
    # Late or twice, it is absorbed once, with the same draws: nothing of rounds 2 and 3 changes but the bytes.
    for line, expected in zip(without_seconds(lines)[1:], without_seconds(healthy)[1:], strict=True):
        assert {name: line[name] for name in line if "bytes" not in name} == {
            name: expected[name] for name in expected if "bytes" not in name
        }
    assert lines[1]["bytes_down"] > healthy[1]["bytes_down"]
    assert lines[2]["bytes_down"] == healthy[2]["bytes_down"]
    assert [knowledge.client_ids for knowledge in seen] == [knowledge.client_ids for knowledge in healthy_seen]


def test_a_client_whose_knowledge_was_refused_keeps_what_it_learnt(tmp_path):
    simulation = simulation_of()
    grid = Wire(simulation, {(SHARE, 2, 1): silence})
    run(simulation, tmp_path / "run", grid)
    assert grid.requests(SHARE)[3][1].fused_round == -1  # it has absorbed round 1, and there was nothing for it in 2
    state = grid.state(1, Generation(3, ABSORBED))
    assert state.absorbed_round == 3


# Who is there


def test_a_late_joiner_takes_part_from_the_round_in_which_it_appears(tmp_path):
    simulation = simulation_of("strategy=fedmd")
    grid = Wire(simulation)
    grid.hidden = {4}
    three = replace(simulation.configuration, num_clients=3)

    def appear(metrics):
        grid.hidden = set()

    lines, seen = run(simulation, tmp_path / "run", grid, configuration=three, round_finished=appear)
    assert [knowledge.client_ids for knowledge in seen] == [(0, 1, 2), (0, 1, 2, 3), (0, 1, 2, 3)]
    assert [line["participants"] for line in lines] == [3, 4, 4]
    assert all(line["left_out"] == [] for line in lines)
    # It starts with what the others have: the consensus of round 1.
    assert {client: request.fused_round for client, request in grid.requests(SHARE)[2].items()} == {
        0: -1,
        1: -1,
        2: -1,
        3: 1,
    }


def in_description(**changes):
    def fault(reply):
        reply.content["description"] = ConfigRecord({**reply.content["description"], **changes})
        return [reply]

    return fault


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (in_description(**{"client-id": 0}), "client id 0 is taken or out of range"),
        (in_description(**{"transfer-digest": "0" * 16}), "client 3 holds another transfer set"),
        (in_description(**{"class-names": '["cat", "dog"]'}), "client 3 has other classes"),
        (in_description(architecture="other"), "client 3 has a model that is not configured here"),
        (flower_error, "error 20"),
        (silence, "gave no reply in time"),
    ],
)
def test_a_node_that_does_not_fit_is_asked_less_and_less_often_and_never_to_share(fault, reason, tmp_path):
    simulation = simulation_of("num_rounds=8")
    grid = Wire(simulation, {(DESCRIBE, 0, 3): fault})
    lines, seen = run(simulation, tmp_path / "run", grid)
    left_out = [{"client_id": -1, "phase": "describe", "reason": f"node 4: {reason}"}]
    assert {line["round"]: line["left_out"] for line in lines if line["left_out"]} == dict.fromkeys(
        (1, 2, 4, 8), left_out
    )
    assert [knowledge.client_ids for knowledge in seen] == 8 * [(0, 1, 2)]
    assert {client for requests in grid.requests(SHARE).values() for client in requests} == {0, 1, 2}


def test_a_node_that_disappears_is_not_asked_until_it_is_back(tmp_path):
    simulation = simulation_of("strategy=fedmd")
    grid = Wire(simulation)

    def change(metrics):
        grid.hidden = {2} if metrics["round"] == 1 else set()

    lines, seen = run(simulation, tmp_path / "run", grid, round_finished=change)
    assert [knowledge.client_ids for knowledge in seen] == [(0, 1, 2, 3), (0, 2, 3), (0, 1, 2, 3)]
    assert all(line["left_out"] == [] for line in lines)
    assert grid.requests(SHARE)[3][1].fused_round == 2


def stop_in_absorb(simulation, directory, round):
    class Stopping(Wire):
        def send_and_receive(self, messages, *, timeout=None):
            if (messages[0].metadata.message_type, messages[0].metadata.group_id) == (ABSORB, str(round)):
                raise KeyboardInterrupt
            return super().send_and_receive(messages)

    grid = Stopping(simulation)
    with pytest.raises(KeyboardInterrupt):
        run(simulation, directory, grid)
    return grid


def test_a_node_that_is_gone_after_a_resume_is_named_in_the_absorb_phase(tmp_path):
    simulation = simulation_of("strategy=fedmd")
    stop_in_absorb(simulation, tmp_path / "run", 2)
    grid = Wire(simulation)
    grid.hidden = {2}
    lines, seen = run(
        simulation, tmp_path / "run", grid, configuration=replace(simulation.configuration, num_clients=3)
    )
    assert [knowledge.round for knowledge in seen] == [3]  # round 2 was fused before it stopped
    assert lines[1]["left_out"] == [{"client_id": 1, "phase": "absorb", "reason": "is no longer connected"}]
    assert [line["participants"] for line in lines] == [4, 3, 3]


def test_a_resume_after_share_does_not_share_again(tmp_path):
    simulation = simulation_of()
    stop_in_absorb(simulation, tmp_path / "run", 2)
    grid = Wire(simulation)
    lines, _ = run(simulation, tmp_path / "run", grid)
    assert [messages[0].metadata.message_type for messages in grid.sent] == [DESCRIBE, ABSORB, SHARE, ABSORB]
    assert without_seconds(lines) == without_seconds(healthy_run()[0])


def names_of_runs(grid):
    """The run that each share and absorb message belongs to: one entry a message."""
    return [
        request.run
        for kind in (SHARE, ABSORB)
        for requests in grid.requests(kind).values()
        for request in requests.values()
    ]


def test_all_messages_of_a_run_name_it_also_after_a_resume(tmp_path):
    simulation = simulation_of()
    stopped = stop_in_absorb(simulation, tmp_path / "run", 2)
    resumed = Wire(simulation)
    run(simulation, tmp_path / "run", resumed)
    # Four clients: rounds 1 and 2 shared and round 1 absorbed, and then what was left of three rounds.
    assert (len(names_of_runs(stopped)), len(names_of_runs(resumed))) == (12, 12)
    (name,) = {*names_of_runs(stopped), *names_of_runs(resumed)}
    assert re.fullmatch(r"[0-9a-f]{16}", name)


def test_two_runs_of_one_configuration_have_two_names(tmp_path):
    simulation = simulation_of("num_rounds=1")
    first, second = Wire(simulation), Wire(simulation)
    run(simulation, tmp_path / "first", first)
    run(simulation, tmp_path / "second", second)
    assert len({*names_of_runs(first)}) == len({*names_of_runs(second)}) == 1
    assert names_of_runs(first)[0] != names_of_runs(second)[0]


def test_the_name_of_a_run_is_in_its_state():
    settings = RoundSettings(0, 4, 1.0, 1, frozenset())
    first, second = (Rounds(settings, simulation_of().server, Observers()) for _ in range(2))
    assert first.run != second.run
    second.load_state_dict(first.state_dict())
    assert second.run == first.run == first.state_dict()["run"]


def test_seconds_of_clients_add_up_by_verb(tmp_path):
    simulation = simulation_of()
    faults = {
        (kind, 1, client): numbers("seconds", **{verb: 100.0 * (client + 1)})
        for kind, verb in ((SHARE, "learn"), (ABSORB, "evaluate"))
        for client in range(4)
    }
    lines, _ = run(simulation, tmp_path / "run", Wire(simulation, faults))
    assert lines[0]["seconds"]["learn"] == lines[0]["seconds"]["evaluate"] == 1000
    assert set(lines[0]["seconds"]) == {"absorb", "learn", "express", "protect", "fuse", "evaluate", "round"}
    assert 0 < lines[0]["seconds"]["round"] < 10


def test_observers_are_told_the_verbs_and_each_phase_is_kept(tmp_path):
    simulation = simulation_of()
    verbs, kept = [], []
    strategy = make_strategy(simulation.configuration.strategy)
    observers = Observers(
        round_finished=lambda record: kept.append(("record", record.round)),
        checkpoint=lambda: kept.append(("checkpoint", rounds.under_way.round, rounds.under_way.shared)),
        verb=lambda *told: verbs.append(told),
    )
    rounds = Rounds(RoundSettings(0, 4, 1.0, 1, frozenset({"test_metrics"})), simulation.server, observers)
    strategy.rounds = rounds
    rounds.prepare(Wire(simulation), 1, None)
    strategy.start(Wire(simulation), num_rounds=1)
    assert verbs == [("fuse", 0, 4)]
    assert kept == [("checkpoint", 1, True), ("record", 1), ("checkpoint", 2, False)]


def test_metrics_are_recorded_as_clients_measured_them(tmp_path):
    simulation = simulation_of()
    grid = Wire(simulation)
    lines, _ = run(simulation, tmp_path / "run", grid)
    replies = [Reply.from_record(message.content) for message in grid.received[2]]
    measured = [ClientMetrics(reply.client_id, **reply.metrics) for reply in replies]
    assert results.read_clients(tmp_path / "run")[1] == tuple(measured)
    assert lines[0]["personal_worst"] == min(client.personal_accuracy for client in measured)


# What is held in memory


def test_replies_are_held_no_longer_than_they_are_read(tmp_path):
    simulation = simulation_of()
    held = []

    class Watching(LocalGrid):
        def send_and_receive(self, messages, *, timeout=None):
            replies = super().send_and_receive(messages)
            self.replies = [weakref.ref(reply) for reply in replies]
            return replies

    class Counting(KnFu):
        def fuse(self, knowledge, server):
            held.append(sum(reference() is not None for reference in grid.replies))
            return super().fuse(knowledge, server)

    grid = Watching(simulation.clients, simulation.settings, "sequential")
    run(simulation, tmp_path / "run", grid, Counting())
    assert held == [0, 0, 0]


@pytest.mark.parametrize(("strategy", "rows"), [("fedmd", 1), ("knfu", 4)])
def test_relevance_that_is_the_same_for_all_is_one_row(strategy, rows, tmp_path, monkeypatch):
    kept, receive = [], Rounds.receive_knowledge

    def looking(self, *arguments):
        receive(self, *arguments)
        kept.append(self.under_way.relevance)

    monkeypatch.setattr(Rounds, "receive_knowledge", looking)
    run(simulation_of(f"strategy={strategy}"), tmp_path / "run")
    for relevance in kept:
        assert relevance.shape == (4, 4)
        assert relevance.untyped_storage().nbytes() == rows * 4 * relevance.element_size()
    _, written, _ = results.read_latest_relevance(tmp_path / "run")
    assert (written == kept[-1].numpy()).all()


def test_what_a_client_that_was_away_still_has_to_absorb_is_its_own_copy(tmp_path):
    simulation = simulation_of()
    grid = Wire(simulation, {(ABSORB, 3, 1): lambda reply: []})
    strategy = make_strategy(simulation.configuration.strategy)
    run(simulation, tmp_path / "run", grid, strategy)
    left = strategy.rounds.waiting.newest_for(1)
    assert left[0] == 3
    soft_labels = left[1]["soft_labels"]["soft_labels"]
    assert soft_labels.untyped_storage().nbytes() == soft_labels.nbytes
