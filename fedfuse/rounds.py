"""The round loop: ask clients to share, check and fuse what comes back, send it to be absorbed, keep a checkpoint.

A round is two exchanges. *Share*: the message carries fused knowledge that its client has not absorbed yet (mostly
none), the client catches up, learns, expresses, protects and replies with its knowledge. *Absorb*: each participant
gets its fused knowledge, absorbs it, evaluates and replies with metrics. Initial weights, late joiners, sampling and
resume all use that one rule.
"""

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from torch import Tensor

from fedfuse.carriers.carrier import CARRIERS, ON_TRANSFER_SET, stack
from fedfuse.carriers.expectation import Expectation
from fedfuse.carriers.soft_labels import SIMPLEX_TOLERANCE
from fedfuse.encoding.encoding import Encoding
from fedfuse.encoding.float32 import FLOAT32
from fedfuse.errors import FedfuseError, TooFewClientsError
from fedfuse.knowledge import Fused, InvalidKnowledgeError, Knowledge, Tensors, is_finite
from fedfuse.memory import given_up
from fedfuse.messages import ABSORB, SHARE, Reply, Request, count_bytes
from fedfuse.metrics import ClientMetrics, LeftOut, RoundRecord
from fedfuse.randomness import numpy_generator
from fedfuse.roster import Roster
from fedfuse.round_under_way import RoundUnderWay
from fedfuse.sampling import participants
from fedfuse.server import Server
from fedfuse.transfer.policy import Past, no_past
from fedfuse.waiting import INITIAL, Waiting

if TYPE_CHECKING:
    from fedfuse.strategy import FusionStrategy


CLIENT_VERBS = frozenset({"absorb", "learn", "express", "protect", "evaluate"})
LONGEST_VERB = 1e9
LONGEST_REASON = 300
LONGEST_STATEMENT = 120


@dataclass(frozen=True)
class RoundSettings:
    """How rounds are run; see the keys of the same name in ``configs/config.yaml``."""

    seed: int
    num_clients: int
    fraction: float
    min_clients: int
    share_facts: frozenset[str]
    encoding: Encoding = FLOAT32
    protection: str = ""


@dataclass
class Observers:
    """Who is told what, while a run goes on.

    Attributes
    ----------
    round_finished
        Called with the record of each round, before its checkpoint.
    checkpoint
        Called after each phase; what it saves must include `Rounds.state_dict`.
    verb
        Called with a verb, the clients done and the clients in all.
    """

    round_finished: Callable[[RoundRecord], None] = lambda record: None
    checkpoint: Callable[[], None] = lambda: None
    verb: Callable[[str, int, int], None] = lambda verb, done, total: None


class Rounds:
    """The server's side of all rounds of one run, between a strategy and a grid.

    Parameters
    ----------
    settings : RoundSettings
        How rounds are run.
    server : Server
        What the server has.
    observers : Observers
        Who is told.

    Attributes
    ----------
    run : str
        Names the run in its messages: clients keep the states of different runs apart by it.
    """

    def __init__(self, settings: RoundSettings, server: Server, observers: Observers) -> None:
        self.settings = settings
        self.server = server
        self.observers = observers
        self.run = secrets.token_hex(8)
        self.roster = Roster(server)
        self.waiting = Waiting()
        self.past = no_past(server.num_transfer)
        self.under_way = RoundUnderWay(1)

    def prepare(self, grid: Grid, timeout: float, initial: Fused | None) -> None:
        """Meet the clients, and lay out what they start from; after a resume the checkpoint has it already."""
        self.roster.wait_for(grid, self.settings.num_clients, timeout)
        if initial is not None:
            self.waiting.put(initial, INITIAL, self.settings.encoding)

    def run_round(self, strategy: "FusionStrategy", grid: Grid, round: int, timeout: float) -> None:
        """Run one round, or what is left of it after a resume.

        Raises
        ------
        TooFewClientsError
            If fewer than ``min_clients`` gave a valid reply.
        """
        nothing, no_config = ArrayRecord(), ConfigRecord()
        resumed = self.under_way.round == round and self.under_way.shared
        if not resumed:
            self.under_way = RoundUnderWay(round)
        left_out = self.roster.describe_new_nodes(grid, timeout)
        if not resumed:
            self.under_way.left_out += left_out
            with self.under_way.timed("round"):
                messages = strategy.configure_train(round, nothing, no_config, grid)
                strategy.aggregate_train(round, given_up(grid.send_and_receive(messages, timeout=timeout)))
            self.under_way.shared = True
            self.observers.checkpoint()
        with self.under_way.timed("round"):
            messages = strategy.configure_evaluate(round, nothing, no_config, grid)
            strategy.aggregate_evaluate(round, given_up(grid.send_and_receive(messages, timeout=timeout)))
        self.observers.round_finished(self._record())
        self.under_way = RoundUnderWay(round + 1)
        self.observers.checkpoint()

    # -- share ---------------------------------------------------------------------------------------------------------

    def share_messages(self, strategy: "FusionStrategy", round: int) -> list[Message]:
        """Ask this round's clients for knowledge; Flower's grids go over the messages twice, hence a list."""
        settings = self.settings
        chosen = participants(list(self.roster.nodes), settings.fraction, settings.min_clients, settings.seed, round)
        self.under_way.participants = list(chosen)
        rows = self.under_way.rows = self._ask(strategy, round)
        facts = tuple(sorted(strategy.needs & settings.share_facts))
        requests = {}
        for client_id in chosen:
            fused_round, fused = self.waiting.newest_for(client_id)
            requests[client_id] = Request(
                round=round,
                run=self.run,
                sends=tuple(sorted(strategy.sends)),
                facts=facts,
                rows=rows if strategy.sends & ON_TRANSFER_SET else None,
                fused=fused,
                fused_round=fused_round,
                compact=settings.encoding.compact,
            )
        return self._messages(requests, SHARE)

    def receive_knowledge(self, strategy: "FusionStrategy", round: int, replies: Iterable[Message]) -> None:
        """Check the clients' knowledge, leave out what is bad, and let the strategy fuse the rest."""
        checked = self._check_replies(replies, "share", lambda reply: self._check(strategy, reply))
        client_ids = self.under_way.participants = list(checked)
        expected = [self.roster.expectation(client, round, self._asked) for client in client_ids]
        knowledge = [reply.knowledge for reply in checked.values() if reply.knowledge is not None]
        # From here on the list alone holds them, which gives them up as they are stacked.
        checked.clear()
        self.observers.verb("fuse", 0, len(client_ids))
        with self.under_way.timed("fuse"):
            try:
                batch = stack(knowledge, expected)
                if "soft_labels" in strategy.sends:
                    self.past = self.past.answered(batch.soft_labels, batch.mask, self._asked)
                fused = strategy.fuse(batch, self.server)
                self._check_fused(strategy, fused, client_ids)
            except InvalidKnowledgeError as error:
                raise FedfuseError(f"{type(strategy).__name__}.fuse returned bad knowledge: {error}.") from error
            self.waiting.put(fused, round, self.settings.encoding)
        del batch  # as large as all that came; the copy of the relevance takes its place
        if fused.relevance is not None:
            self.under_way.relevance = _copy(fused.relevance.detach())
            self.under_way.relevance_clients = client_ids

    def _check(self, strategy: "FusionStrategy", reply: Reply) -> None:
        knowledge = reply.knowledge
        if knowledge is None or set(knowledge.carriers) != set(strategy.sends):
            came = [] if knowledge is None else sorted(knowledge.carriers)
            raise InvalidKnowledgeError(f"sent {came}, asked for {sorted(strategy.sends)}")
        if ("num_examples" in strategy.needs) != (knowledge.num_examples is not None):
            raise InvalidKnowledgeError("told its number of examples unasked, or not although asked")
        if ("label_counts" in strategy.needs) != (knowledge.label_counts is not None):
            raise InvalidKnowledgeError("told its label counts unasked, or not although asked")
        if knowledge.carriers and knowledge.protection != self.settings.protection:
            stated, configured = knowledge.protection[:LONGEST_STATEMENT], self.settings.protection
            raise InvalidKnowledgeError(f"protected by {stated or 'nothing'} instead of {configured or 'nothing'}")
        if knowledge.label_counts is not None and len(knowledge.label_counts) != self.server.num_classes:
            raise InvalidKnowledgeError(f"told {len(knowledge.label_counts)} label counts")
        expected = self.roster.expectation(reply.client_id, reply.round, self._asked)
        for carrier, tensors in knowledge.carriers.items():
            CARRIERS[carrier].check(tensors, expected)

    def _check_fused(self, strategy: "FusionStrategy", fused: Fused, client_ids: list[int]) -> None:
        if not isinstance(fused, Fused):
            raise InvalidKnowledgeError(f"it is {type(fused).__name__}, not Fused")
        square = (len(client_ids), len(client_ids))
        if fused.relevance is not None and not (fused.relevance.shape == square and is_finite(fused.relevance)):
            raise InvalidKnowledgeError(f"relevance must be finite and of shape {list(square)}")
        # What is common is checked once for each architecture, as a client that has it will.
        one_of_each = {self.roster.descriptions[client].architecture: client for client in client_ids}
        common = [(client, fused.common or {}) for client in one_of_each.values()]
        for client_id, carriers in (*common, *fused.personal.items()):
            if client_id not in self.roster.descriptions:
                raise InvalidKnowledgeError(f"there is no client {client_id}")
            if not set(carriers) <= set(strategy.returns):
                raise InvalidKnowledgeError(f"{sorted(carriers)}, but returns says {sorted(strategy.returns)}")
            expected = self.roster.expectation(client_id, self.under_way.round, self._asked)
            for carrier, tensors in carriers.items():
                if carrier == "soft_labels":
                    _check_fused_soft_labels(tensors, expected)
                else:
                    CARRIERS[carrier].check(tensors, expected)

    # -- absorb --------------------------------------------------------------------------------------------------------

    def absorb_messages(self, round: int) -> list[Message]:
        """Send each of this round's participants what it has not absorbed yet."""
        requests = {}
        for client_id in self.under_way.participants:
            if client_id not in self.roster.nodes:
                self._leave_out(client_id, "absorb", "is no longer connected")
                continue
            fused_round, fused = self.waiting.newest_for(client_id)
            requests[client_id] = Request(round, self.run, fused=fused, fused_round=fused_round)
        return self._messages(requests, ABSORB)

    def receive_metrics(self, round: int, replies: Iterable[Message]) -> None:
        """Collect the evaluations of this round's participants."""
        for client_id, reply in self._check_replies(replies, "absorb", _check_metrics).items():
            metrics = reply.metrics or {}
            self.under_way.clients.append(
                ClientMetrics(
                    client_id=client_id,
                    personal_accuracy=metrics.get("personal_accuracy"),
                    general_accuracy=metrics.get("general_accuracy"),
                    validation_accuracy=metrics.get("validation_accuracy"),
                    personal_loss=metrics.get("personal_loss"),
                )
            )
        self.waiting.keep_what_is_left()

    # -- both ----------------------------------------------------------------------------------------------------------

    def _ask(self, strategy: "FusionStrategy", round: int) -> Tensor:
        """Let the transfer policy choose samples, and the strategy those of them that clients are asked for."""
        generator = numpy_generator(self.settings.seed, "transfer rows", round)
        chosen = self.server.transfer_rows(self.past, generator)
        asked = strategy.ask(chosen, round)
        if not (asked.ndim == 1 and 1 <= len(set(asked.tolist())) == len(asked) and torch.isin(asked, chosen).all()):
            raise FedfuseError(
                f"{type(strategy).__name__}.ask must return some of the {len(chosen)} rows it was given."
            )
        return asked.sort().values

    @property
    def _asked(self) -> Tensor:
        assert self.under_way.rows is not None, "nothing is received before it was asked for"
        return self.under_way.rows

    def _messages(self, requests: Mapping[int, Request], message_type: str) -> list[Message]:
        messages = []
        self.under_way.sent = {}
        for client_id, request in requests.items():
            record = request.to_record()
            self.under_way.bytes_down += count_bytes(record)
            self.under_way.sent[client_id] = request.fused_round
            messages.append(
                Message(
                    record,
                    dst_node_id=self.roster.nodes[client_id],
                    message_type=message_type,
                    group_id=str(request.round),
                )
            )
        return messages

    def _check_replies(
        self, replies: Iterable[Message], phase: str, check: Callable[[Reply], None]
    ) -> dict[int, Reply]:
        """Sort valid replies by client id; name and leave out the others; stop when too few remain."""
        valid: dict[int, Reply] = {}
        unheard = dict(self.under_way.sent)
        senders = self.roster.clients_by_node()
        for message in replies:
            client_id = senders.get(message.metadata.src_node_id)
            if client_id is None or client_id not in unheard:
                continue
            fused_round = unheard.pop(client_id)
            try:
                reply = self._read(message, client_id, check)
            except InvalidKnowledgeError as error:
                self._leave_out(client_id, phase, str(error))
                continue
            self.waiting.confirm(client_id, fused_round)
            self.under_way.add_seconds(reply.seconds or {})
            valid[client_id] = reply
        for client_id in sorted(unheard):
            self._leave_out(client_id, phase, "gave no reply in time")
        if len(valid) < self.settings.min_clients:
            reasons = _by_reason(self.under_way.left_out)
            raise TooFewClientsError(
                f"Round {self.under_way.round}, {phase}: {len(valid)} of {len(self.under_way.sent)} clients gave "
                f"a valid reply, min_clients={self.settings.min_clients}. {reasons}"
            )
        return dict(sorted(valid.items()))

    def _read(self, message: Message, client_id: int, check: Callable[[Reply], None]) -> Reply:
        if message.has_error():
            raise InvalidKnowledgeError(f"the node failed with error {message.error.code}")
        try:
            self.under_way.bytes_up += count_bytes(message.content)
        except Exception as error:  # Flower counts its own records only while nobody tampers with them
            raise InvalidKnowledgeError(f"malformed message ({type(error).__name__})") from error
        reply = Reply.from_record(message.content)
        if reply.client_id != client_id:
            raise InvalidKnowledgeError(f"the reply says it is from client {reply.client_id}")
        if reply.round != self.under_way.round:
            raise InvalidKnowledgeError(f"the reply is for round {reply.round}")
        if reply.transfer_digest != self.server.transfer_digest:
            raise InvalidKnowledgeError("the reply is on another transfer set")
        seconds = reply.seconds or {}
        if not set(seconds) <= CLIENT_VERBS or not all(0 <= value <= LONGEST_VERB for value in seconds.values()):
            raise InvalidKnowledgeError("the reply has implausible times")
        if reply.knowledge is not None:
            reply = replace(reply, knowledge=self._decode(reply.knowledge))
        check(reply)
        return reply

    def _decode(self, knowledge: Knowledge) -> Knowledge:
        tensors, server = knowledge.carriers.get("soft_labels"), self.server
        if tensors is None:
            return knowledge
        decoded = self.settings.encoding.decode(tensors, server.num_transfer, server.num_classes, server.dtype)
        return replace(knowledge, carriers={**knowledge.carriers, "soft_labels": decoded})

    def _leave_out(self, client_id: int, phase: str, reason: str) -> None:
        # A reason can quote a client, which must neither fill our files nor control a terminal.
        printable = "".join(character if character.isprintable() else " " for character in reason[:LONGEST_REASON])
        self.under_way.left_out.append(LeftOut(client_id, phase, printable))

    def _record(self) -> RoundRecord:
        now = self.under_way
        return RoundRecord(
            round=now.round,
            clients=tuple(now.clients),
            left_out=tuple(now.left_out),
            bytes_up=now.bytes_up,
            bytes_down=now.bytes_down,
            seconds=now.seconds,
            relevance=None if now.relevance is None else now.relevance.numpy(),
            relevance_clients=tuple(now.relevance_clients),
        )

    # -- resume --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return where the run stands, for a checkpoint."""
        return {
            "run": self.run,
            "waiting": self.waiting.to_dict(),
            "past": vars(self.past),
            "under_way": self.under_way.to_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state_dict` was taken."""
        self.run = state["run"]
        self.waiting = Waiting(**state["waiting"])
        self.past = Past(**state["past"])
        self.under_way = RoundUnderWay.from_dict(state["under_way"])


def _check_fused_soft_labels(tensors: Tensors, expected: Expectation) -> None:
    shapes = {"soft_labels": (expected.num_transfer, expected.num_classes), "mask": (expected.num_transfer,)}
    if {name: tensor.shape for name, tensor in tensors.items()} != shapes or tensors["mask"].dtype != torch.bool:
        raise InvalidKnowledgeError("soft labels need soft_labels [M, C] and a bool mask [M] for each client")
    answered = tensors["soft_labels"][tensors["mask"]]
    # Twice what a client may be off: a strategy that passes on what it got must not stop the run.
    if (answered < -2 * SIMPLEX_TOLERANCE).any() or ((answered.sum(1) - 1).abs() > 2 * SIMPLEX_TOLERANCE).any():
        raise InvalidKnowledgeError("soft labels are off the simplex")


def _copy(relevance: Tensor) -> Tensor:
    """Copy it, because a strategy may go on with its own; one row that is the same for all stays one row."""
    if relevance.stride(0) == 0:
        return relevance[:1].clone().expand_as(relevance)
    return relevance.clone()


def _check_metrics(reply: Reply) -> None:
    for name, value in (reply.metrics or {}).items():
        if name.endswith("accuracy") and not 0 <= value <= 1:
            raise InvalidKnowledgeError(f"{name} {value:g} is out of range")


def _by_reason(left_out: Iterable[LeftOut]) -> str:
    clients: dict[str, list[str]] = {}
    for out in left_out:
        clients.setdefault(out.reason, []).append(str(out.client_id))
    return "; ".join(
        f"client{'s' if len(ids) > 1 else ''} {', '.join(ids)}: {reason}" for reason, ids in clients.items()
    )
