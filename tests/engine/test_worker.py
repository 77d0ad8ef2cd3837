"""What a worker does, in a thread of this process; as a process of its own it is in ``test_workers.py``."""

import logging
import os
import sqlite3
import threading
from contextlib import closing, suppress
from multiprocessing import Pipe

import pytest
import torch
from states import states_in

from fedfuse.client import phases
from fedfuse.client.state import SHARED
from fedfuse.client.state_file import StateFile
from fedfuse.engine import worker
from fedfuse.engine.letters import Answers, Duty, Log, Post, Questions, Ready, Unable, Verb, anonymous_file
from fedfuse.messages import SHARE


@pytest.fixture
def begin(tmp_path, make_clients, make_settings):
    """Return a function that starts a worker for clients 1 and 2 with such a parts file, and the line to it."""
    logger = logging.getLogger("fedfuse")
    before = list(logger.handlers), logger.propagate
    started = []

    def start(contents=None):
        here, there = Pipe()
        down, up, parts = anonymous_file(), anonymous_file(), anonymous_file()
        with os.fdopen(os.dup(parts), "wb") as file:
            torch.save((make_clients(), make_settings()) if contents is None else contents, file)
        post, other = Post(here, down, up), Post(there, os.dup(up), os.dup(down))

        def work():
            with closing(other), suppress(EOFError):
                worker.work(other, parts)

        thread = threading.Thread(target=work)
        thread.start()
        started.append((thread, post, parts))
        post.send(Duty(frozenset({1, 2}), "auto", 1, tmp_path / "states.sqlite"))
        return post

    yield start
    for thread, post, parts in started:
        post.close()
        thread.join(timeout=60)
        assert not thread.is_alive()
        os.close(parts)
    logger.handlers[:], logger.propagate = before


def letters_until(post, kind):
    letters = [post.receive()]
    while not isinstance(letters[-1], kind):
        letters.append(post.receive())
    return letters


def test_a_worker_answers_for_its_own_clients_and_has_written_their_states_by_then(
    begin, share_request, tmp_path, monkeypatch
):
    order, commit, send = [], StateFile.commit, Post.send
    monkeypatch.setattr(StateFile, "commit", lambda file: order.append("commit") or commit(file))
    monkeypatch.setattr(Post, "send", lambda post, letter: order.append(type(letter)) or send(post, letter))
    post = begin()
    assert post.receive() == Ready()
    record = share_request(1).to_record()
    post.send(Questions(SHARE, {2: record, 1: record}))
    *told, answers = letters_until(post, Answers)
    assert set(answers.records) == {1, 2}
    assert all("failure" not in own for own in answers.records.values())
    verbs = ["absorb", "learn", "express", "protect"]
    assert told == [Verb(name, 0) for name in verbs] + [Verb(name, 1) for name in verbs]
    assert order[-2:] == ["commit", Answers]
    states = states_in(tmp_path / "states.sqlite", range(5))
    assert [(client, *moment[:2]) for client, moments in states.items() for moment in moments] == [
        (1, 1, SHARED),
        (2, 1, SHARED),
    ]


def test_what_a_worker_logs_is_told_with_its_traceback(begin, share_request, monkeypatch):
    def fail(*others):
        raise OSError("the disk is gone")

    monkeypatch.setattr(phases, "share", fail)
    post = begin()
    assert post.receive() == Ready()
    post.send(Questions(SHARE, {1: share_request(1).to_record()}))
    *told, answers = letters_until(post, Answers)
    (log,) = [letter for letter in told if isinstance(letter, Log)]
    assert log.record.name == "fedfuse.engine.local_grid"
    assert "client 1 failed in round 1" in log.record.getMessage()
    assert "OSError: the disk is gone" in log.record.getMessage()
    assert "failure" in answers.records[1]


def test_parts_that_cannot_be_loaded_are_told_in_one_line(begin):
    log, letter = letters_until(begin(contents=(1, 2)), Unable)
    assert letter.reason == "TypeError: 'int' object is not iterable"
    assert "Traceback" in log.record.getMessage()


def test_a_worker_that_cannot_write_states_says_so_instead_of_an_answer(begin, share_request, monkeypatch):
    def fail(file):
        raise sqlite3.OperationalError("database or disk is full")

    post = begin()
    assert post.receive() == Ready()
    monkeypatch.setattr(StateFile, "commit", fail)
    post.send(Questions(SHARE, {1: share_request(1).to_record()}))
    *_, log, letter = letters_until(post, (Answers, Unable))
    assert letter.reason == "OperationalError: database or disk is full"
    assert log.record.getMessage().startswith("a worker has to end\nTraceback")
