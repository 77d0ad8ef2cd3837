"""A Flower grid on this machine: all messages of a phase at once, clients of one architecture together.

The only file that touches Flower's private names (task identity and run), which are process-global: one run at a time
in a process.
"""

import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedfuse.client import phases
from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.failure import failure_of
from fedfuse.client.state import ABSORBED, SHARED, Generation, MemoryStore, StateStore
from fedfuse.device import CPU, Device, computing_on
from fedfuse.engine.runner import choose_runner
from fedfuse.messages import ABSORB, DESCRIBE, SHARE, Request
from fedfuse.stopwatch import Stopwatch

logger = logging.getLogger(__name__)

RUN_ID = 1
UNKNOWN_MESSAGE = 2


@dataclass(frozen=True)
class _Asked:
    """One client's message, read."""

    message: Message
    client: Client
    request: Request


class Workforce(Protocol):
    """What computes clients in other processes, see `fedfuse.engine.workers.Workers`."""

    def answer(self, kind: str, records: Mapping[int, RecordDict]) -> dict[int, RecordDict]:
        """Let clients answer messages of one kind, by client id."""
        ...


class LocalGrid(Grid):
    """Runs clients in this process or in workers of its own, under the same wire form as everywhere else.

    Parameters
    ----------
    clients : Sequence[Client]
        All clients; node ids are client ids plus one, because Flower keeps zero for itself.
    settings : ClientSettings
        How every client works.
    runner : str or Mapping[str, str]
        See `fedfuse.engine.runner.choose_runner`.
    verb : Callable[[str, int, int], None], optional
        Told each verb as it begins, with the number of clients done and in all.
    device : Device
        Where the clients are computed.
    store : StateStore, optional
        Where the clients' states are kept; without, in memory.
    workers : Workforce, optional
        Other processes that compute the clients and keep their states themselves; without, this one does.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        settings: ClientSettings,
        runner: str | Mapping[str, str] = "auto",
        verb: Callable[[str, int, int], None] | None = None,
        device: Device = CPU,
        store: StateStore | None = None,
        workers: Workforce | None = None,
    ) -> None:
        self._clients = {client.client_id + 1: client for client in clients}
        self._settings = settings
        self._runner = runner
        self._verb = verb
        self._device = device
        self.store = MemoryStore() if store is None else store
        self._workers = workers
        self._message_numbers = itertools.count()
        self._replies: dict[str, Message] = {}
        self._run = Run.create_empty(RUN_ID)
        TaskIdentity.run_id = RUN_ID
        TaskIdentity.task_id = 1
        TaskIdentity.node_id = 1

    # -- what a run is made of -----------------------------------------------------------------------------------------

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Run all clients that are written to, and return their replies sorted by node id."""
        messages = list(messages)
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"local-{next(self._message_numbers)}"
        replies: list[Message] = []
        asked: dict[str, list[_Asked]] = {SHARE: [], ABSORB: []}
        handed_on: dict[str, list[Message]] = {SHARE: [], ABSORB: []}
        for message in messages:
            kind = message.metadata.message_type
            client = self._clients.get(message.metadata.dst_node_id)
            if client is None or kind not in (DESCRIBE, SHARE, ABSORB):
                replies.append(Message(Error(UNKNOWN_MESSAGE), reply_to=message))
            elif kind == DESCRIBE:
                record = phases.describe(client, self._settings).to_record()
                replies.append(Message(record, reply_to=message))
            elif self._workers is not None:
                handed_on[kind].append(message)
            else:
                request = Request.from_record(message.content)
                asked[kind].append(_Asked(message, client, request))
        replies += self._run_phase(phases.share, SHARED, asked[SHARE])
        replies += self._run_phase(phases.absorb_and_evaluate, ABSORBED, asked[ABSORB])
        for kind, of_kind in handed_on.items():
            replies += self._hand_on(kind, of_kind)
        return sorted(replies, key=lambda reply: reply.metadata.src_node_id)

    def _hand_on(self, kind: str, messages: Sequence[Message]) -> list[Message]:
        if self._workers is None or not messages:
            return []
        records = {self._clients[one.metadata.dst_node_id].client_id: one.content for one in messages}
        answers = self._workers.answer(kind, records)
        return [Message(answers[client_id], reply_to=one) for client_id, one in zip(records, messages, strict=True)]

    def _run_phase(self, phase: phases.Phase, finished: int, asked: Sequence[_Asked]) -> list[Message]:
        cohorts: dict[str, list[_Asked]] = {}
        for one in sorted(asked, key=lambda one: one.client.client_id):
            cohorts.setdefault(one.client.architecture.signature, []).append(one)
        replies: list[Message] = []
        for cohort in cohorts.values():
            try:
                records = self._run_cohort(phase, finished, cohort, len(replies), len(asked))
            except Exception:
                # One client's fault must stay its own: find out whose it is.
                records = []
                for number, one in enumerate(cohort):
                    records += self._run_alone(phase, finished, one, len(replies) + number, len(asked))
            for one, record in zip(cohort, records, strict=True):
                replies.append(Message(record, reply_to=one.message))
        return replies

    def _run_alone(self, phase: phases.Phase, finished: int, one: _Asked, done: int, total: int) -> list[RecordDict]:
        try:
            return self._run_cohort(phase, finished, [one], done, total)
        except Exception as error:
            logger.exception("client %d failed in round %d", one.client.client_id, one.request.round)
            return [failure_of(error).to_record()]

    def _run_cohort(
        self, phase: phases.Phase, finished: int, cohort: Sequence[_Asked], done: int, total: int
    ) -> list[RecordDict]:
        verb = self._verb
        announce = None if verb is None else lambda name: verb(name, done, total)
        clients = [one.client for one in cohort]
        requests = [one.request for one in cohort]
        generation = Generation(requests[0].round, finished)
        with computing_on(self._device):
            answers = phase(
                clients,
                [phases.start_state(self.store, one.client, generation, one.request, self._settings) for one in cohort],
                requests,
                self._settings,
                choose_runner(self._runner, clients[0].architecture, self._device.is_cuda),
                Stopwatch(announce),
            )
        for client, answer in zip(clients, answers, strict=True):
            self.store.save(client.client_id, generation, answer.state)
        return [answer.reply.to_record() for answer in answers]

    # -- the rest of Flower's interface --------------------------------------------------------------------------------

    def set_run(self, run: Run) -> None:
        """Set the run that messages belong to."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return the node ids of all clients, ascending."""
        return sorted(self._clients)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Run all clients that are written to; `pull_messages` has their replies."""
        messages = list(messages)
        self._replies |= {reply.metadata.reply_to_message_id: reply for reply in self.send_and_receive(messages)}
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to messages that were pushed, once."""
        return [self._replies.pop(message_id) for message_id in message_ids if message_id in self._replies]
