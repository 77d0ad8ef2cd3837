import io
import json
import math

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfuse.knowledge import InvalidKnowledgeError, Knowledge
from fedfuse.messages import ABSORB, DESCRIBE, SHARE, Description, Failure, Reply, Request, count_bytes

RUN = "0123456789abcdef"


@pytest.fixture(autouse=True)
def task_identity(monkeypatch):
    """Flower makes messages only where it knows who runs; it keeps that for the whole process."""
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def sent(record, message_type=SHARE):
    """Send a record through the bytes of Flower's protocol."""
    proto = message_to_proto(Message(record, dst_node_id=2, message_type=message_type))
    received = message_from_proto(type(proto).FromString(proto.SerializeToString()))
    assert received.metadata.message_type == message_type
    return received.content


def bits(tensor):
    """The dtype, shape and bytes of a tensor: equal for tensors that are bitwise the same."""
    return tensor.dtype, tensor.shape, tensor.contiguous().numpy().tobytes()


def bits_of(carriers):
    return {carrier: {name: bits(tensor) for name, tensor in tensors.items()} for carrier, tensors in carriers.items()}


def random(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


TENSORS = {
    "float16": random(2, 3).to(torch.float16),
    "float32": random(2, 3),
    "float64": random(2, 3, dtype=torch.float64),
    "int32": torch.tensor([-(2**31), 2**31 - 1], dtype=torch.int32),
    "int64": torch.tensor([-(2**63), 2**63 - 1]),
    "uint8": torch.arange(256, dtype=torch.uint8),
    "bool": torch.tensor([True, False]),
    "one number": torch.tensor(7),
    "no row": torch.zeros(0, 4),
    "a view": random(6, 4)[1:5:2],
    "transposed": random(3, 4).T,
    "special": torch.tensor([0.0, -0.0, 1e-45, 9.9e11, 1 / 3]),
}


# -- what was sent is what arrives -------------------------------------------------------------------------------------


def test_types_of_messages():
    # The part before the dot is Flower's own; absorbing changes the model, so it is a kind of training.
    assert (DESCRIBE, SHARE, ABSORB) == ("query.describe", "train.share", "train.absorb")


@pytest.mark.parametrize("name", TENSORS)
def test_every_kind_of_tensor_survives_bitwise(name):
    carriers = {"weights": {"layer.0/weight": TENSORS[name]}}
    request = Request.from_record(sent(Request(round=1, fused=carriers, fused_round=0).to_record()))
    assert bits_of(request.fused) == bits_of(carriers)
    knowledge = Knowledge(3, 1, carriers)
    reply = Reply.from_record(sent(Reply(3, 1, "digest", knowledge).to_record()))
    assert bits_of(reply.knowledge.carriers) == bits_of(carriers)
    assert reply.knowledge.carriers["weights"]["layer.0/weight"].is_contiguous()


def test_a_request_survives():
    request = Request(
        round=12,
        run=RUN,
        sends=("soft_labels", "prototypes"),
        facts=("num_examples",),
        rows=torch.tensor([0, 5, 2**40]),
        fused={"soft_labels": {"soft_labels": random(3, 4), "rows": torch.tensor([1, 2, 3])}, "weights": TENSORS},
        fused_round=11,
    )
    received = Request.from_record(sent(request.to_record(), ABSORB))
    assert (received.round, received.run, received.fused_round) == (12, RUN, 11)
    assert received.sends == ("soft_labels", "prototypes")
    assert received.facts == ("num_examples",)
    assert bits(received.rows) == bits(request.rows)
    assert bits_of(received.fused) == bits_of(request.fused)


def test_an_empty_request_survives():
    assert Request.from_record(sent(Request(round=1).to_record())) == Request(1, "-", (), (), None, None, -1)


def test_no_fused_knowledge_and_fused_knowledge_of_no_carrier_differ():
    received = Request.from_record(sent(Request(round=1, fused={}, fused_round=0).to_record()))
    assert (received.fused, received.fused_round) == ({}, 0)
    assert Request.from_record(sent(Request(round=1).to_record())).fused is None


def test_a_request_for_no_row_differs_from_one_without_rows():
    received = Request.from_record(sent(Request(round=1, rows=torch.tensor([], dtype=torch.int64)).to_record()))
    assert received.rows.shape == (0,)
    assert received.rows.dtype == torch.int64


def test_received_tensors_can_be_written_to():
    request = Request(round=1, rows=torch.tensor([1]), fused={"weights": {"bias": random(3)}}, fused_round=0)
    received = Request.from_record(sent(request.to_record()))
    received.rows.add_(1)
    received.fused["weights"]["bias"].zero_()
    assert received.rows.tolist() == [2]


@pytest.mark.parametrize("class_names", [("0", "1"), (), ("a, b", 'quote "', "Größe", "猫", "")])
def test_a_description_survives(class_names):
    description = Description(41, "0123456789abcdef", 32, "digest", class_names)
    assert Description.from_record(sent(description.to_record(), DESCRIBE)) == description


def test_a_reply_with_knowledge_survives():
    carriers = {"soft_labels": {"soft_labels": random(3, 4)}, "weights": TENSORS}
    knowledge = Knowledge(41, 12, carriers, num_examples=2**40 - 1)
    reply = Reply(41, 12, "digest", knowledge, seconds={"learn": 0.1, "express": 1 / 3})
    received = Reply.from_record(sent(reply.to_record()))
    assert (received.client_id, received.round, received.transfer_digest) == (41, 12, "digest")
    assert (received.knowledge.client_id, received.knowledge.round) == (41, 12)
    assert received.knowledge.num_examples == 2**40 - 1
    assert bits_of(received.knowledge.carriers) == bits_of(carriers)
    assert received.seconds == {"learn": 0.1, "express": 1 / 3}
    assert received.metrics == {}


def test_a_reply_with_metrics_survives():
    metrics = {"personal_accuracy": 1 / 3, "personal_loss": 0.1}
    received = Reply.from_record(sent(Reply(0, 1, "digest", metrics=metrics).to_record(), ABSORB))
    assert received.knowledge is None
    assert received.metrics == metrics
    assert received.seconds == {}


def test_metrics_arrive_as_floating_numbers():
    received = Reply.from_record(sent(Reply(0, 1, "digest", metrics={"accuracy": 1}).to_record()))
    assert isinstance(received.metrics["accuracy"], float)


def test_the_number_of_examples_stays_untold():
    knowledge = Knowledge(0, 1, {"weights": {"bias": random(3)}})
    assert Reply.from_record(sent(Reply(0, 1, "digest", knowledge).to_record())).knowledge.num_examples is None


def test_label_counts_survive_or_stay_untold():
    for counts in ((0, 7, 2**40 - 1), None):
        knowledge = Knowledge(0, 1, {"weights": {"bias": random(3)}}, label_counts=counts)
        received = Reply.from_record(sent(Reply(0, 1, "digest", knowledge).to_record()))
        assert received.knowledge.label_counts == counts


@pytest.mark.parametrize("value", ["3", "[", "[1.0]", '["1"]', "[true]", "[[1]]", "{}", "null", 3])
def test_label_counts_must_be_whole_numbers(value):
    record = valid_reply()
    record["reply"]["label-counts"] = value
    text = refused(Reply.from_record, record)
    assert text in ("label-counts is no list of integers", "malformed message (JSONDecodeError)")


@pytest.mark.parametrize("value", ["[0, 0]", "[-1, 3]", "[1, 1099511627776]", "[]"])
def test_label_counts_must_be_in_range(value):
    record = valid_reply()
    record["reply"]["label-counts"] = value
    assert refused(Reply.from_record, record) == "implausible label counts"


def test_knowledge_of_no_carrier_is_not_the_same_as_no_knowledge():
    received = Reply.from_record(sent(Reply(0, 1, "digest", Knowledge(0, 1, {})).to_record()))
    assert dict(received.knowledge.carriers) == {}


def test_the_word_of_a_failure_is_the_error_cut_to_a_line():
    with pytest.raises(InvalidKnowledgeError) as caught:
        Reply.from_record(sent(Failure("diverged", "weights are not finite").to_record()))
    assert str(caught.value) == "diverged: weights are not finite"
    with pytest.raises(InvalidKnowledgeError) as caught:
        Reply.from_record(sent(Failure("c" * 1000, "t" * 1000).to_record()))
    assert str(caught.value) == "c" * 40 + ": " + "t" * 200


# -- what must not be believed -----------------------------------------------------------------------------------------


def array_of(values):
    """An array as a hostile client would make one: with what NumPy itself writes, pickles included."""
    stream = io.BytesIO()
    np.save(stream, np.asarray(values), allow_pickle=True)
    return Array(dtype="float32", shape=(1,), stype="numpy.ndarray", data=stream.getvalue())


def valid_reply():
    carriers = {"soft_labels": {"soft_labels": torch.full((3, 4), 0.25)}}
    return Reply(1, 1, "digest", Knowledge(1, 1, carriers, 10), {"accuracy": 0.5}, {"learn": 1.0}).to_record()


def valid_request():
    fused = {"soft_labels": {"soft_labels": torch.full((3, 4), 0.25)}}
    return Request(1, RUN, ("soft_labels",), (), torch.arange(3), fused, 0).to_record()


def valid_description():
    return Description(1, "architecture", 32, "digest", ("0", "1")).to_record()


def refused(read, record):
    """Read a record that must be refused; return the text of the error."""
    with pytest.raises(InvalidKnowledgeError) as caught:
        read(sent(record))
    return str(caught.value)


@pytest.mark.parametrize("value", [1.0, "1", b"1", True, [1]])
@pytest.mark.parametrize(
    ("read", "valid", "entry", "key"),
    [
        (Reply.from_record, valid_reply, "reply", "client-id"),
        (Reply.from_record, valid_reply, "reply", "round"),
        (Reply.from_record, valid_reply, "reply", "num-examples"),
        (Request.from_record, valid_request, "request", "round"),
        (Request.from_record, valid_request, "request", "fused-round"),
        (Description.from_record, valid_description, "description", "client-id"),
        (Description.from_record, valid_description, "description", "embedding-size"),
    ],
)
def test_a_whole_number_must_be_one(read, valid, entry, key, value):
    record = valid()
    record[entry][key] = value
    assert refused(read, record) == f"{key} is no integer"


@pytest.mark.parametrize("value", ["soft_labels", "[", '{"soft_labels": 1}', '"soft_labels"', "null", 3, b"\xff"])
@pytest.mark.parametrize(
    ("read", "valid", "entry", "key"),
    [
        (Reply.from_record, valid_reply, "reply", "carriers"),
        (Request.from_record, valid_request, "request", "carriers"),
        (Request.from_record, valid_request, "request", "sends"),
        (Request.from_record, valid_request, "request", "facts"),
        (Description.from_record, valid_description, "description", "class-names"),
    ],
)
def test_a_list_of_names_must_be_one(read, valid, entry, key, value):
    record = valid()
    record[entry][key] = value
    refused(read, record)


@pytest.mark.parametrize(
    ("read", "valid", "entry", "keys"),
    [
        (Reply.from_record, valid_reply, "reply", ("client-id", "round", "transfer-digest")),
        (Request.from_record, valid_request, "request", ("round", "run", "sends", "facts", "fused-round", "carriers")),
        (
            Description.from_record,
            valid_description,
            "description",
            ("client-id", "architecture", "embedding-size", "transfer-digest", "class-names"),
        ),
    ],
)
def test_every_entry_must_be_there(read, valid, entry, keys):
    for key in keys:
        record = valid()
        del record[entry][key]
        assert refused(read, record) == "malformed message (KeyError)"


@pytest.mark.parametrize(
    ("read", "valid", "entries"),
    [
        (Reply.from_record, valid_reply, ("reply", "metrics", "seconds", "carrier.soft_labels")),
        (Request.from_record, valid_request, ("request", "carrier.soft_labels")),
        (Description.from_record, valid_description, ("description",)),
    ],
)
def test_every_record_must_be_there_and_of_its_type(read, valid, entries):
    refused(read, RecordDict())
    for entry in entries:
        record = valid()
        del record[entry]
        assert refused(read, record) == "malformed message (KeyError)"
        for other in (ConfigRecord(), MetricRecord(), ArrayRecord()):
            record = valid()
            if type(other) is not type(record[entry]):
                record[entry] = other
                refused(read, record)


def test_rows_must_be_an_array_of_that_name():
    for rows in (ConfigRecord({"rows": 1}), ArrayRecord(), ArrayRecord({"other": Array(torch.arange(3))})):
        record = valid_request()
        record["rows"] = rows
        refused(Request.from_record, record)


@pytest.mark.parametrize(
    "array",
    [
        Array(dtype="float32", shape=(3, 4), stype="numpy.ndarray", data=b""),
        Array(dtype="float32", shape=(3, 4), stype="numpy.ndarray", data=b"no array at all"),
        Array(dtype="float32", shape=(3, 4), stype="torch.tensor", data=array_of([1.0]).data),
        array_of([{"an": "object"}]),
        array_of(["text"]),
        array_of(np.zeros(3, dtype=">f4")),
        array_of(np.zeros(3, dtype="datetime64[s]")),
    ],
    ids=["empty", "garbage", "unknown form", "pickle", "text", "other byte order", "dates"],
)
def test_an_array_must_be_one_of_numbers(array):
    record = valid_reply()
    record["carrier.soft_labels"] = ArrayRecord({"soft_labels": array})
    refused(Reply.from_record, record)
    record = valid_request()
    record["carrier.soft_labels"] = ArrayRecord({"soft_labels": array})
    refused(Request.from_record, record)
    record = valid_request()
    record["rows"] = ArrayRecord({"rows": array})
    refused(Request.from_record, record)


def test_an_array_is_never_unpickled(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (tmp_path.joinpath("touched").touch, ())

    record = valid_reply()
    record["carrier.soft_labels"] = ArrayRecord({"soft_labels": array_of([Hostile()])})
    refused(Reply.from_record, record)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_knowledge_must_be_finite(value):
    record = valid_reply()
    record["carrier.soft_labels"] = ArrayRecord({"soft_labels": Array(torch.tensor([[0.5, value]]))})
    assert refused(Reply.from_record, record) == "soft_labels: soft_labels is not finite, or above 1e12"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("client-id", -1, "client -1, round 1: out of range"),
        ("round", 0, "client 1, round 0: out of range"),
        ("num-examples", 0, "implausible number of examples: 0"),
        ("num-examples", 2**62, f"implausible number of examples: {2**62}"),
    ],
)
def test_numbers_of_knowledge_must_be_in_range(key, value, message):
    record = valid_reply()
    record["reply"][key] = value
    assert refused(Reply.from_record, record) == message


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, [0.5], [1]])
@pytest.mark.parametrize("entry", ["metrics", "seconds"])
def test_metrics_and_seconds_must_be_finite_numbers(entry, value):
    record = valid_reply()
    record[entry] = MetricRecord({"n" * 100: value})
    assert refused(Reply.from_record, record) == "metric " + "n" * 40 + " is no finite number"


@pytest.mark.parametrize("failure", [ConfigRecord(), ConfigRecord({"code": "failed"}), ArrayRecord(), MetricRecord()])
def test_a_failure_must_be_well_formed_too(failure):
    record = valid_reply()
    record["failure"] = failure
    assert refused(Reply.from_record, record) == "malformed message (KeyError)"


def test_names_nested_without_end_are_refused():
    record = valid_reply()
    record["reply"]["carriers"] = "[" * 100_000
    refused(Reply.from_record, record)


def test_the_error_does_not_repeat_what_was_sent():
    record = valid_reply()
    record["reply"]["carriers"] = json.dumps(["secret"])
    assert "secret" not in refused(Reply.from_record, record)


ANYTHING = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.booleans(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.lists(st.integers(-9, 9), min_size=1, max_size=2),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(
        [
            (Reply.from_record, valid_reply, "reply"),
            (Request.from_record, valid_request, "request"),
            (Description.from_record, valid_description, "description"),
        ]
    ),
    data=st.data(),
)
def test_whatever_stands_in_a_header_no_other_error_is_raised(kind, data):
    read, valid, entry = kind
    record = valid()
    for key in list(record[entry]):
        if data.draw(st.booleans()):
            record[entry][key] = data.draw(ANYTHING)
    try:
        read(record)
    except InvalidKnowledgeError as error:
        assert "\n" not in str(error)


# -- bytes -------------------------------------------------------------------------------------------------------------


def size_of_soft_labels(rows, dtype=torch.float32):
    knowledge = Knowledge(1, 1, {"soft_labels": {"soft_labels": torch.zeros(rows, 10, dtype=dtype)}})
    return count_bytes(Reply(1, 1, "digest", knowledge).to_record())


def test_bytes_of_arrays_are_counted_exactly():
    # 25 more rows of 10 classes; the part that describes the array does not grow.
    assert size_of_soft_labels(100) - size_of_soft_labels(75) == 25 * 10 * 4
    assert size_of_soft_labels(100, torch.float64) - size_of_soft_labels(75, torch.float64) == 25 * 10 * 8
    assert size_of_soft_labels(100) >= 100 * 10 * 4


def test_bytes_of_all_records_are_counted():
    record = valid_reply()
    assert count_bytes(record) == sum(record[entry].count_bytes() for entry in record)
    assert count_bytes(RecordDict()) == 0
    more = Reply(1, 1, "digest" * 2, metrics={"accuracy": 0.5}).to_record()
    less = Reply(1, 1, "digest", metrics={"accuracy": 0.5}).to_record()
    assert count_bytes(more) - count_bytes(less) == len("digest")


def test_bytes_of_a_request_for_nothing_can_be_counted():
    assert 0 < count_bytes(Request(round=1, run=RUN).to_record()) < 200


def test_bytes_of_a_request_of_no_run_can_be_counted():
    no_run = count_bytes(Request(round=1).to_record())
    assert count_bytes(Request(round=1, run=RUN).to_record()) - no_run == len(RUN) - len("-")


def test_a_description_can_be_the_word_that_the_client_failed():
    record = Failure("failed", "KeyError").to_record()
    assert refused(Description.from_record, record) == "failed: KeyError"


def test_rows_of_a_compact_request_take_a_bit_each():
    rows = torch.arange(0, 1000, 3)
    plain, compact = Request(1, rows=rows), Request(1, rows=rows, compact=True)
    read = Request.from_record(sent(compact.to_record()))
    assert bits(read.rows) == bits(rows)
    assert read.compact
    assert not Request.from_record(sent(plain.to_record())).compact
    # 334 rows of 8 bytes, or 1,000 bits.
    assert count_bytes(plain.to_record()) - count_bytes(compact.to_record()) == pytest.approx(334 * 8 - 125, abs=8)


def test_rows_that_are_no_row_of_bits_are_malformed():
    record = Request(1, rows=torch.arange(3), compact=True).to_record()
    record["rows"] = ArrayRecord({"rows": Array(torch.zeros(2, 2, dtype=torch.uint8))})
    with pytest.raises(InvalidKnowledgeError, match="rows are not written as bits"):
        Request.from_record(record)


def test_equal_requests_have_equal_digests_and_others_have_not():
    def request(**changes):
        fused = {"soft_labels": {"soft_labels": torch.tensor([[0.25, 0.75]])}}
        return Request(
            **{"round": 3, "run": "a", "rows": torch.tensor([1, 4]), "fused": fused, "fused_round": 2} | changes
        )

    assert request().digest == request().digest
    assert Request.from_record(request().to_record()).digest == request().digest
    assert request(run="b").digest == request().digest
    others = [
        request(round=4),
        request(sends=("weights",)),
        request(facts=("num_examples",)),
        request(rows=torch.tensor([1, 5])),
        request(rows=None),
        request(fused=None),
        request(fused={"soft_labels": {"soft_labels": torch.tensor([[0.75, 0.25]])}}),
        request(fused={"soft_labels": {"other": torch.tensor([[0.25, 0.75]])}}),
        request(fused_round=1),
        request(compact=True),
    ]
    assert len({request().digest, *(other.digest for other in others)}) == 11


def test_what_was_done_to_protect_knowledge_travels_or_stays_unsaid():
    for protection in ("", "clip(radius=0.5); draws: system"):
        reply = Reply(1, 2, "digest", knowledge=Knowledge(1, 2, {}, protection=protection))
        assert Reply.from_record(reply.to_record()).knowledge.protection == protection
