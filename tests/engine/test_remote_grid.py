import threading
from types import SimpleNamespace

import pytest
from flwr.app import Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedfuse.engine import remote_grid
from fedfuse.engine.remote_grid import RemoteGrid, StoppedError
from fedfuse.errors import FedfuseError

SECONDS_BETWEEN_LOOKS = 0.5


@pytest.fixture(autouse=True)
def task_identity(monkeypatch):
    """Flower makes messages only where it knows who runs; it keeps that for the whole process."""
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


class InnerGrid:
    """A grid whose nodes reply at given times; a node without one is gone."""

    def __init__(self, clock, reply_at):
        self.clock, self.reply_at = clock, reply_at
        self.pushed, self.pulled, self.replies = [], [], {}
        self.run = None

    def push_messages(self, messages):
        messages = list(messages)
        self.pushed.append([message.metadata.dst_node_id for message in messages])
        return [self._push(message) for message in messages]

    def _push(self, message):
        node = message.metadata.dst_node_id
        if node not in self.reply_at:
            return None
        message.metadata.__dict__["_message_id"] = f"message to {node}"
        reply = Message(RecordDict(), reply_to=message)
        self.replies[f"message to {node}"] = self.reply_at[node], reply
        return f"message to {node}"

    def pull_messages(self, message_ids):
        self.pulled.append((self.clock.now, list(message_ids)))
        there = [self.replies[message_id] for message_id in self.pulled[-1][1]]
        return (reply for time, reply in there if time <= self.clock.now)  # Flower promises an iterable only

    def get_node_ids(self):
        return iter([5, 3, 4])

    def set_run(self, run):
        self.run = run


class Clock:
    """Time that passes only while somebody waits; takes the place of the event that stops a run."""

    def __init__(self):
        self.now, self.waits, self.stops_at = 1000.0, [], None

    def monotonic(self):
        return self.now

    def wait(self, seconds):
        assert len(self.waits) < 10_000, "this never ends"
        self.waits.append(seconds)
        self.now += seconds
        return self.stops_at is not None and self.now >= self.stops_at


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(remote_grid, "time", clock)
    return clock


@pytest.fixture
def ask(clock):
    """Return a function that asks nodes, which reply so many seconds later, and says what happened."""

    def ask(nodes, seconds, timeout=None, **options):
        inner = InnerGrid(clock, {node: clock.now + later for node, later in seconds.items()})
        grid = RemoteGrid(inner, SECONDS_BETWEEN_LOOKS, stopped=clock, **options)
        messages = [grid.create_message(RecordDict(), "query.share", node, "7") for node in nodes]
        replies = grid.send_and_receive(messages, timeout=timeout)
        return SimpleNamespace(inner=inner, messages=messages, nodes=[reply.metadata.src_node_id for reply in replies])

    return ask


def test_messages_are_pushed_one_by_one(ask):
    asked = ask([4, 2, 3], {4: 0, 2: 0, 3: 0})
    assert asked.inner.pushed == [[4], [2], [3]]


def test_replies_are_sorted_by_node(ask):
    assert ask([4, 2, 3], {4: 0, 2: 2, 3: 1}).nodes == [2, 3, 4]


def test_replies_that_are_there_are_not_waited_for(ask, clock):
    assert ask([1, 2], {1: 0, 2: 0}, timeout=60).nodes == [1, 2]
    assert clock.waits == []


def test_only_missing_replies_are_asked_for_again_after_a_pause(ask, clock):
    asked = ask([3, 1, 2], {1: 0, 2: 0.6, 3: 0.4})
    assert asked.nodes == [1, 2, 3]
    assert asked.inner.pulled == [
        (1000.0, ["message to 1", "message to 2", "message to 3"]),
        (1000.5, ["message to 2", "message to 3"]),
        (1001.0, ["message to 2"]),
    ]
    assert clock.waits == [SECONDS_BETWEEN_LOOKS] * 2


def test_node_that_is_gone_is_not_waited_for(ask, clock):
    asked = ask([1, 2, 3], {1: 0, 3: 0})
    assert asked.nodes == [1, 3]
    assert asked.inner.pulled == [(1000.0, ["message to 1", "message to 3"])]
    assert clock.waits == []


def test_nothing_is_looked_for_when_all_nodes_are_gone(ask, clock):
    asked = ask([1, 2], {}, timeout=60)
    assert (asked.nodes, asked.inner.pulled, clock.waits) == ([], [], [])


def test_no_messages_have_no_replies_and_nothing_is_looked_for(ask, clock):
    asked = ask([], {}, timeout=60)
    assert (asked.nodes, asked.inner.pushed, asked.inner.pulled, clock.waits) == ([], [], [], [])


def test_replies_are_waited_for_until_the_time_is_over(ask, clock):
    asked = ask([1, 2, 3], {1: 0.9, 2: 2.0, 3: 2.6}, timeout=2)
    assert asked.nodes == [1, 2]
    assert [time - 1000 for time, _ in asked.inner.pulled] == [0, 0.5, 1, 1.5, 2, 2.5]


def test_without_a_timeout_replies_are_waited_for_as_long_as_it_takes(ask, clock):
    assert ask([1], {1: 1000}).nodes == [1]
    assert clock.now == 2000


def test_messages_live_as_long_as_their_replies_are_waited_for(ask):
    for message in ask([1, 2], {1: 0, 2: 0}, timeout=12.5).messages:
        assert message.metadata.ttl == 12.5


def test_without_a_timeout_messages_live_as_long_as_flower_lets_them(ask):
    usual = Message(RecordDict(), 1, "query").metadata.ttl
    for message in ask([1, 2], {1: 0, 2: 0}).messages:
        assert message.metadata.ttl == usual


def test_progress_is_told_at_every_look(ask):
    told = []
    ask([1, 2, 3], {1: 0, 2: 0.6, 3: 0.4}, verb=lambda *progress: told.append(progress))
    assert told == [("share", 1, 3), ("share", 2, 3), ("share", 3, 3)]


def test_every_reply_is_checked_once_when_it_comes(ask, clock):
    checked = []
    ask([1, 2], {1: 0.4, 2: 0}, check=lambda reply: checked.append((clock.now - 1000, reply.metadata.src_node_id)))
    assert checked == [(0, 2), (0.5, 1)]


def test_check_stops_the_run(ask, clock):
    def refuse(reply):
        raise FedfuseError(f"node {reply.metadata.src_node_id} holds other data")

    with pytest.raises(FedfuseError, match="node 2 holds other data"):
        ask([1, 2], {1: 5, 2: 1}, check=refuse)
    assert clock.now == 1001


def test_run_that_is_told_to_stop_waits_no_longer(ask, clock):
    clock.stops_at = 1001
    with pytest.raises(StoppedError, match="was stopped while it waited for replies"):
        ask([1], {1: 5}, timeout=60)
    assert clock.now == 1001


def test_an_event_that_is_set_stops_a_run_at_once(clock):
    stopped = threading.Event()
    stopped.set()
    grid = RemoteGrid(InnerGrid(clock, {1: clock.now + 1}), 600, stopped=stopped)
    with pytest.raises(StoppedError):
        grid.send_and_receive([grid.create_message(RecordDict(), "query", 1, "1")])


def test_message_carries_what_it_is_created_with():
    content = RecordDict()
    message = RemoteGrid(None, 1).create_message(content, "train.learn", 12, "3", ttl=4.5)
    assert message.content is content
    metadata = message.metadata
    assert (metadata.message_type, metadata.dst_node_id, metadata.group_id, metadata.ttl) == (
        "train.learn",
        12,
        "3",
        4.5,
    )


def test_nodes_are_in_order(clock):
    assert RemoteGrid(InnerGrid(clock, {}), 1).get_node_ids() == [3, 4, 5]


def test_run_is_that_of_the_grid_inside(clock):
    inner, run = InnerGrid(clock, {}), object()
    grid = RemoteGrid(inner, 1)
    grid.set_run(run)
    assert inner.run is run
    assert grid.run is run


def test_messages_can_be_pushed_and_pulled_apart(clock):
    grid = RemoteGrid(InnerGrid(clock, {1: clock.now, 3: clock.now}), 1)
    ids = grid.push_messages(grid.create_message(RecordDict(), "query", node, "1") for node in (1, 2, 3))
    assert ids == ["message to 1", "message to 3"]
    assert [reply.metadata.src_node_id for reply in grid.pull_messages(iter(ids))] == [1, 3]
