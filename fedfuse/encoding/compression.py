"""Entropy coding by the standard library: a bare LZMA stream, without the headers that a file would need."""

import lzma

from fedfuse.knowledge import InvalidKnowledgeError

# Tables of bytes are short and have no words in them: no literal depends on the one before it.
FILTERS = [{"id": lzma.FILTER_LZMA1, "preset": 9, "dict_size": 2**20, "lc": 0, "lp": 0, "pb": 0}]


def compress(plain: bytes) -> bytes:
    """Return a stream from which `decompress` makes the same bytes."""
    return lzma.compress(plain, lzma.FORMAT_RAW, filters=FILTERS)


def decompress(stream: bytes, size: int) -> bytes:
    """Return the bytes of a stream that is known to hold so many.

    Never makes more than one byte above ``size``, whatever the stream would expand to; its memory is bounded by the
    dictionary, which the stream cannot choose.

    Raises
    ------
    InvalidKnowledgeError
        If it is no such stream.
    """
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=FILTERS)
    try:
        plain = decompressor.decompress(stream, max_length=size + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise InvalidKnowledgeError("soft labels are not compressed as they should be") from error
    if len(plain) != size or not decompressor.eof or decompressor.unused_data:
        raise InvalidKnowledgeError(f"soft labels do not decompress to {size} bytes")
    return plain
