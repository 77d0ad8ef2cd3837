import os
from multiprocessing import Pipe

import pytest
import torch

from fedfuse.engine.letters import LEAST_SHARED, Post, Questions, Ready, anonymous_file
from fedfuse.messages import Request, count_bytes


@pytest.fixture
def line():
    """Return both ends of a line, and the raw connection of the second."""
    here, there = Pipe()
    down, up = anonymous_file(), anonymous_file()
    first, second = Post(here, down, up), Post(there, os.dup(up), os.dup(down))
    yield first, second, there
    first.close()
    second.close()


def questions(num_samples):
    """Make questions whose knowledge is of ``num_samples`` times 80 bytes, different for each client."""
    return Questions(
        "train.share",
        {
            client: Request(
                1, fused={"soft_labels": {"soft_labels": tensor(client, num_samples)}}, fused_round=0
            ).to_record()
            for client in (3, 1)
        },
    )


def tensor(seed, num_samples):
    return torch.randn(num_samples, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_records_arrive_as_they_were_sent_in_both_directions(line):
    here, there, _ = line
    for sender, receiver in ((here, there), (there, here)):
        for num_samples in (3, 400, 100, 5000, 2):  # the shared memory grows, and is used again
            letter = questions(num_samples)
            sender.send(letter)
            received = receiver.receive()
            assert received == letter
            assert list(received.records) == [3, 1]
            assert [count_bytes(record) for record in received.records.values()] == [
                count_bytes(record) for record in letter.records.values()
            ]
            for client, record in received.records.items():
                own = Request.from_record(record).fused["soft_labels"]["soft_labels"]
                assert torch.equal(own, tensor(client, num_samples))


def test_what_is_large_does_not_go_through_the_pipe(line):
    here, _, raw = line
    sizes = []
    for number in (LEAST_SHARED - 1, LEAST_SHARED, 1000 * LEAST_SHARED):
        here.send(bytes(number))
        sizes.append(len(raw.recv_bytes()))
    assert sizes[0] > LEAST_SHARED - 1
    assert max(sizes[1:]) < 100


def test_a_received_letter_does_not_change_when_the_next_one_comes(line):
    here, there, _ = line
    here.send(b"a" * 5000)
    first = there.receive()
    here.send(b"b" * 5000)
    assert there.receive() == b"b" * 5000
    assert first == b"a" * 5000


def test_large_parts_lie_one_after_the_other(line):
    here, there, _ = line
    parts = [bytes([number]) * (LEAST_SHARED + number) for number in range(5)]
    here.send([b"small", *parts])
    assert there.receive() == [b"small", *parts]


def test_the_end_of_the_line_is_noticed_after_the_last_letter(line):
    here, there, raw = line
    here.send(Ready())
    here._connection.close()
    assert there.receive() == Ready()
    with pytest.raises(EOFError):
        there.receive()
    with pytest.raises(ConnectionError):
        there.send(Ready())
    assert raw.fileno() == there.fileno()
