"""The wire form of all that is sent: requests, descriptions, knowledge, metrics and failures as Flower records.

Whatever comes from the wire is untrusted: every ``from_record`` raises `InvalidKnowledgeError`, and nothing else, for
content that is not what it should be.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from fedfuse.encoding.row_bits import from_bits, to_bits
from fedfuse.knowledge import InvalidKnowledgeError, Knowledge, Tensors, check_finite

DESCRIBE = "query.describe"
SHARE = "train.share"
ABSORB = "train.absorb"

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def _untrusted(read: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Turn whatever goes wrong while reading foreign records into one kind of error, without their content."""

    @wraps(read)
    def checked(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return read(*args, **kwargs)
        except InvalidKnowledgeError:
            raise
        except Exception as error:
            raise InvalidKnowledgeError(f"malformed message ({type(error).__name__})") from error

    return checked


@dataclass(frozen=True)
class Request:
    """What the server asks of one client in one phase.

    Parameters
    ----------
    round : int
        The round.
    run : str
        The run that it belongs to, the same for all its messages, also after a resume.
    sends : tuple[str, ...]
        The carriers to express (share phase).
    facts : tuple[str, ...]
        The private facts that the strategy needs, for example ``"num_examples"``.
    rows : Tensor, optional
        Ascending int64 row numbers of the transfer set that are asked for; absent: none are.
    fused : Mapping[str, Tensors], optional
        Fused knowledge that the client has not absorbed yet.
    fused_round : int
        The round that it was fused in; 0 for initial weights, -1 where there is none.
    compact : bool
        Whether the rows travel as a bit for each transfer sample instead of eight bytes for each row.
    """

    round: int
    run: str = "-"
    sends: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    rows: Tensor | None = None
    fused: Mapping[str, Tensors] | None = None
    fused_round: int = -1
    compact: bool = False

    @property
    def digest(self) -> str:
        """A hash of all that is asked in a run: equal for the same request, sent again."""
        text = hashlib.blake2b(digest_size=16)
        # Not the run, whose name is drawn afresh: one seed gives one result, and a client has another key in each run.
        text.update(repr((self.round, self.sends, self.facts, self.fused_round, self.compact)).encode())
        fused = {
            f"{carrier}.{name}": tensor
            for carrier, tensors in (self.fused or {}).items()
            for name, tensor in tensors.items()
        }
        for name, tensor in sorted((fused | ({} if self.rows is None else {"rows": self.rows})).items()):
            text.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
            text.update(tensor.contiguous().numpy().tobytes())
        return text.hexdigest()

    def to_record(self) -> RecordDict:
        """Return the wire form."""
        record = RecordDict(
            {
                "request": ConfigRecord(
                    {
                        "round": self.round,
                        "run": self.run,
                        "sends": _text(self.sends),
                        "facts": _text(self.facts),
                        "fused-round": self.fused_round,
                        "carriers": _text(sorted(self.fused or {})),
                    }
                )
            }
        )
        if self.rows is not None:
            record["rows"] = ArrayRecord({"rows": Array(to_bits(self.rows) if self.compact else self.rows)})
        _write_carriers(record, self.fused or {})
        return record

    @staticmethod
    @_untrusted
    def from_record(record: RecordDict) -> "Request":
        """Read the wire form."""
        request = record.config_records["request"]
        rows = torch.from_numpy(record.array_records["rows"]["rows"].numpy()) if "rows" in record else None
        compact = rows is not None and rows.dtype == torch.uint8
        fused_round = _integer(request, "fused-round")
        fused = _read_carriers(record, _names(request, "carriers")) if fused_round >= 0 else None
        for carrier, tensors in (fused or {}).items():
            check_finite(carrier, tensors)
        return Request(
            round=_integer(request, "round"),
            run=str(request["run"]),
            sends=_names(request, "sends"),
            facts=_names(request, "facts"),
            rows=from_bits(rows) if rows is not None and compact else rows,
            fused=fused,
            fused_round=fused_round,
            compact=compact,
        )


@dataclass(frozen=True)
class Description:
    """What a new node says of itself before round 1.

    Parameters
    ----------
    client_id : int
        Its place in the federation (Flower itself knows random node ids only).
    architecture : str
        The signature of its model's architecture.
    embedding_size : int
        The width of its model's features.
    transfer_digest : str
        The hash of its copy of the transfer set.
    class_names : tuple[str, ...]
        The classes, in the order of the soft labels.
    """

    client_id: int
    architecture: str
    embedding_size: int
    transfer_digest: str
    class_names: tuple[str, ...]

    def to_record(self) -> RecordDict:
        """Return the wire form."""
        return RecordDict(
            {
                "description": ConfigRecord(
                    {
                        "client-id": self.client_id,
                        "architecture": self.architecture,
                        "embedding-size": self.embedding_size,
                        "transfer-digest": self.transfer_digest,
                        "class-names": _text(self.class_names),
                    }
                )
            }
        )

    @staticmethod
    @_untrusted
    def from_record(record: RecordDict) -> "Description":
        """Read the wire form."""
        _raise_failure(record)
        description = record.config_records["description"]
        return Description(
            client_id=_integer(description, "client-id"),
            architecture=str(description["architecture"]),
            embedding_size=_integer(description, "embedding-size"),
            transfer_digest=str(description["transfer-digest"]),
            class_names=_names(description, "class-names"),
        )


@dataclass(frozen=True)
class Reply:
    """What a client answers in either phase: knowledge after ``share``, metrics after ``absorb``.

    Parameters
    ----------
    client_id, round : int
        Who answers, and for which round.
    transfer_digest : str
        The hash of the transfer set that it answered on.
    knowledge : Knowledge, optional
        What it shares.
    metrics : Mapping[str, float]
        Its evaluation, as far as it may travel.
    seconds : Mapping[str, float]
        How long each verb took.
    """

    client_id: int
    round: int
    transfer_digest: str
    knowledge: Knowledge | None = None
    metrics: Mapping[str, float] | None = None
    seconds: Mapping[str, float] | None = None

    def to_record(self) -> RecordDict:
        """Return the wire form."""
        header: dict[str, int | str] = {
            "client-id": self.client_id,
            "round": self.round,
            "transfer-digest": self.transfer_digest,
        }
        if self.knowledge is not None:
            header["carriers"] = _text(sorted(self.knowledge.carriers))
            if self.knowledge.num_examples is not None:
                header["num-examples"] = self.knowledge.num_examples
            if self.knowledge.label_counts is not None:
                header["label-counts"] = json.dumps(self.knowledge.label_counts)
            if self.knowledge.protection:
                header["protection"] = self.knowledge.protection
        record = RecordDict(
            {
                "reply": ConfigRecord(header),  # type: ignore[arg-type]
                "metrics": MetricRecord(dict(self.metrics or {})),
                "seconds": MetricRecord(dict(self.seconds or {})),
            }
        )
        if self.knowledge is not None:
            _write_carriers(record, self.knowledge.carriers)
        return record

    @staticmethod
    @_untrusted
    def from_record(record: RecordDict) -> "Reply":
        """Read the wire form.

        Raises
        ------
        InvalidKnowledgeError
            If the reply is malformed, holds a NaN, or is the client's word that it failed.
        """
        _raise_failure(record)
        header = record.config_records["reply"]
        client_id, round = _integer(header, "client-id"), _integer(header, "round")
        knowledge = None
        if "carriers" in header:
            knowledge = Knowledge(
                client_id=client_id,
                round=round,
                carriers=_read_carriers(record, _names(header, "carriers")),
                num_examples=_integer(header, "num-examples") if "num-examples" in header else None,
                label_counts=_integers(header, "label-counts") if "label-counts" in header else None,
                protection=str(header.get("protection", "")),
            )
        return Reply(
            client_id=client_id,
            round=round,
            transfer_digest=str(header["transfer-digest"]),
            knowledge=knowledge,
            metrics=_numbers(record.metric_records["metrics"]),
            seconds=_numbers(record.metric_records["seconds"]),
        )


@dataclass(frozen=True)
class Failure:
    """A client's word that it could not answer.

    Parameters
    ----------
    code : str
        The kind of failure, one word.
    text : str
        What the server may know of it: no data, no paths, no exception texts.
    """

    code: str
    text: str

    def to_record(self) -> RecordDict:
        """Return the wire form."""
        return RecordDict({"failure": ConfigRecord({"code": self.code, "text": self.text})})


def count_bytes(record: RecordDict) -> int:
    """Count the bytes of all records of a message: arrays as they are serialised, and their metadata."""
    return sum(entry.count_bytes() for entry in record.values())


def _raise_failure(record: RecordDict) -> None:
    if "failure" in record:
        failure = record.config_records["failure"]
        raise InvalidKnowledgeError(f"{str(failure['code'])[:40]}: {str(failure['text'])[:200]}")


def _write_carriers(record: RecordDict, carriers: Mapping[str, Tensors]) -> None:
    for carrier, tensors in carriers.items():
        arrays = {name: Array(tensor.contiguous()) for name, tensor in tensors.items()}
        record[f"carrier.{carrier}"] = ArrayRecord(arrays)


def _read_carriers(record: RecordDict, carriers: tuple[str, ...]) -> dict[str, dict[str, Tensor]]:
    return {
        carrier: {
            name: torch.from_numpy(array.numpy()) for name, array in record.array_records[f"carrier.{carrier}"].items()
        }
        for carrier in carriers
    }


def _integer(record: ConfigRecord, key: str) -> int:
    value = record[key]
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidKnowledgeError(f"{key} is no integer")
    return value


def _integers(record: ConfigRecord, key: str) -> tuple[int, ...]:
    values = json.loads(str(record[key]))
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise InvalidKnowledgeError(f"{key} is no list of integers")
    return tuple(values)


def _text(names: Iterable[str]) -> str:
    # Not Flower's own lists: an empty one loses its type, and counting its bytes fails.
    return json.dumps(list(names))


def _names(record: ConfigRecord, key: str) -> tuple[str, ...]:
    names = json.loads(str(record[key]))
    if not isinstance(names, list):
        raise InvalidKnowledgeError(f"{key} is no list")
    return tuple(str(name) for name in names)


def _numbers(record: MetricRecord) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, list) or not math.isfinite(value):
            raise InvalidKnowledgeError(f"metric {str(name)[:40]} is no finite number")
        numbers[str(name)] = float(value)
    return numbers
