"""Random bytes that back a privacy guarantee: a stream that nobody without the key can tell from true randomness."""

import hashlib
import secrets
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

KEY_BYTES = 32


def new_key() -> bytes:
    """Draw a key from the operating system's generator."""
    return secrets.token_bytes(KEY_BYTES)


class Keystream:
    """A ChaCha20 keystream: one key gives streams that have nothing to do with each other, one for each purpose.

    Derived from a key that the operating system drew, rather than drawn byte by byte: the same message to the same
    client gets the same answer, however often it is repeated, so that repeating it releases nothing more.

    Parameters
    ----------
    key : bytes
        32 secret bytes.
    purpose : str
        What is drawn. It must hold all that the protected value depends on and that others decide: noise that is used
        for two different values can be taken away from their difference.
    """

    def __init__(self, key: bytes, purpose: str) -> None:
        own_key = hashlib.blake2b(purpose.encode(), key=key, digest_size=KEY_BYTES).digest()
        # Every stream has a key of its own, so that all can begin at the same nonce.
        self._encryptor = Cipher(ChaCha20(own_key, bytes(16)), mode=None).encryptor()

    def bytes(self, number: int) -> bytes:
        """Return the next bytes of the stream."""
        return self._encryptor.update(bytes(number))

    def fill(self, numbers: NDArray[Any]) -> None:
        """Overwrite an array of contiguous memory with the next bytes of the stream."""
        self._encryptor.update_into(bytes(numbers.nbytes), numbers.data.cast("B"))

    def integers(self, number: int) -> NDArray[np.uint64]:
        """Return the next whole numbers, uniform in ``[0, 2**64)``."""
        return np.frombuffer(self.bytes(8 * number), dtype="<u8").astype(np.uint64, copy=False)
