"""What hides a vector? The keystreams of AES-256 in counter mode, added to it modulo 2**32 or 2**16.

Legend: n values of the vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

Words = npt.NDArray[np.unsignedinteger[Any]]  # uint32 or uint16

_BLOCK_BYTES = 16
_CHUNK = 2**14  # values at a time: the vector's part and the keystream's stay in the processor's cache
_ZEROS = bytes(4 * _CHUNK)
# Hospitals with processors of the other byte order add the same.
_WORDS: dict[str, np.dtype[np.unsignedinteger[Any]]] = {"uint32": np.dtype("<u4"), "uint16": np.dtype("<u2")}


def add_masks(values_n: Words, adding: Sequence[bytes], subtracting: Sequence[bytes]) -> None:
    """Adds and subtracts the masks of keys, in place.

    Args:
        values_n: uint32 or uint16 (n,).
        adding: keys of 32 bytes, each of them used for this one mask only.
        subtracting: the same.
    """
    assert values_n.dtype.name in _WORDS and values_n.ndim == 1, "masks are for vectors of uint32 or uint16"
    ahead, back = [_stream(key) for key in adding], [_stream(key) for key in subtracting]
    size = values_n.dtype.itemsize
    buffer = bytearray(size * _CHUNK + _BLOCK_BYTES)  # OpenSSL wants room for a block more
    words = np.frombuffer(buffer, _WORDS[values_n.dtype.name])
    for start in range(0, len(values_n), _CHUNK):
        part = values_n[start : start + _CHUNK]
        zeros, mask = memoryview(_ZEROS)[: size * len(part)], words[: len(part)]
        for stream in ahead:
            stream.update_into(zeros, buffer)
            np.add(part, mask, out=part)
        for stream in back:
            stream.update_into(zeros, buffer)
            np.subtract(part, mask, out=part)


def _stream(key: bytes) -> CipherContext:
    """Starts at block 0, for a key makes one mask and no other."""
    return Cipher(AES256(key), CTR(bytes(_BLOCK_BYTES))).encryptor()
