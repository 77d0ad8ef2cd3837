import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from fedfuse.privacy.keystream import KEY_BYTES, Keystream, new_key

KEY = bytes(range(32))


def test_a_stream_goes_on_where_it_was():
    whole, parts = Keystream(KEY, "noise"), Keystream(KEY, "noise")
    assert whole.bytes(100) == parts.bytes(1) + parts.bytes(63) + parts.bytes(36)


def test_key_and_purpose_decide_the_stream():
    first = Keystream(KEY, "noise").bytes(32)
    assert Keystream(KEY, "noise").bytes(32) == first
    others = [Keystream(KEY, "noise of round 2"), Keystream(bytes(32), "noise"), Keystream(KEY, "")]
    assert len({first, *(other.bytes(32) for other in others)}) == 4


def test_a_stream_is_that_of_the_cipher():
    # RFC 8439, appendix A.1, test vector 1: what ChaCha20 gives for a key, a counter and a nonce of zeros. Keys are
    # derived, so that the cipher is checked beneath the derivation.
    stream = Keystream(KEY, "noise")
    stream._encryptor = Cipher(ChaCha20(bytes(32), bytes(16)), mode=None).encryptor()
    assert stream.bytes(16).hex() == "76b8e0ada0f13d90405d6ae55386bd28"


def test_integers_are_eight_bytes_each_lowest_first():
    integers = Keystream(KEY, "noise").integers(3)
    assert integers.dtype == np.uint64
    assert b"".join(int(number).to_bytes(8, "little") for number in integers) == Keystream(KEY, "noise").bytes(24)


def test_an_array_is_filled_with_the_next_bytes():
    stream, numbers = Keystream(KEY, "noise"), np.ones((2, 3), dtype="<i4")
    stream.fill(numbers[1])
    assert numbers[0].tolist() == [1, 1, 1]
    assert numbers[1].tobytes() + stream.bytes(4) == Keystream(KEY, "noise").bytes(16)


def test_integers_are_uniform():
    shares = Keystream(KEY, "noise").integers(100_000) / 2.0**64
    counts = np.histogram(shares, bins=20, range=(0, 1))[0]
    # The 99.99 % quantile of chi-square with 19 degrees of freedom.
    assert ((counts - 5000) ** 2 / 5000).sum() < 52.4


def test_a_new_key_is_drawn_every_time():
    keys = {new_key() for _ in range(4)}
    assert len(keys) == 4
    assert {len(key) for key in keys} == {KEY_BYTES}


def test_a_key_of_another_length_is_no_key():
    with pytest.raises(ValueError):
        Keystream(bytes(65), "noise")
