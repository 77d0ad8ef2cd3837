import lzma
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfuse.encoding.compression import FILTERS, compress, decompress
from fedfuse.knowledge import InvalidKnowledgeError


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_bytes_come_back_as_they_were(plain):
    assert decompress(compress(plain), len(plain)) == plain


def test_there_is_no_header():
    assert len(compress(b"abc")) < 20
    assert len(compress(b"")) <= 10


@pytest.mark.parametrize("size", [0, 99, 101, 10_000])
def test_a_stream_of_another_size_is_refused(size):
    with pytest.raises(InvalidKnowledgeError, match=f"do not decompress to {size} bytes"):
        decompress(compress(bytes(100)), size)


@pytest.mark.parametrize(
    "change",
    [
        lambda stream: b"",
        lambda stream: stream[:-1],
        lambda stream: stream + b"!",
        lambda stream: stream + stream,
        lambda stream: b"\xff" * 40,
        lambda stream: lzma.compress(bytes(range(100))),
    ],
)
def test_what_is_no_whole_stream_is_refused(change):
    with pytest.raises(InvalidKnowledgeError):
        decompress(change(compress(bytes(range(100)))), 100)


def test_a_stream_that_would_expand_a_thousandfold_takes_no_memory():
    bomb = lzma.compress(bytes(2**24), lzma.FORMAT_RAW, filters=FILTERS)
    assert len(bomb) < 2**13
    tracemalloc.start()
    with pytest.raises(InvalidKnowledgeError):
        decompress(bomb, 1000)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
