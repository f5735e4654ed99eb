"""Where does randomness come from that nobody may guess? From the operating system, stretched by AES-256.

Noise that protects patients must not be predictable: NumPy's and torch's generators can be reconstructed from their
output, and a study's seed is public. Normal deviates are drawn in float64 and each is the sum of four, halved, so that
the gaps between floating-point numbers give no deviate away.

Source: Box and Muller 1958; Holohan and Braghin 2021, "Secure random sampling in differential privacy" (sum of four).
"""

from __future__ import annotations

import math
import os

import numpy as np
import numpy.typing as npt
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from torch import Tensor

_KEY_BYTES, _BLOCK_BYTES = 32, 16
_SUMMED = 4
_CHUNK = 2**14  # deviates at a time: everything stays in the processor's cache
_UNIT = 2.0**-53
_CHANCES = 2.0**32

Floats = npt.NDArray[np.float64]


class SecretRandom:
    """A stream of secret random numbers; forking or pickling it would repeat it, so it refuses both.

    Args:
        key: 32 bytes, for tests; None takes them from the operating system.
    """

    def __init__(self, key: bytes | None = None) -> None:
        key = os.urandom(_KEY_BYTES) if key is None else key
        assert len(key) == _KEY_BYTES, f"a key of {len(key)} bytes"
        self._process = os.getpid()
        self._stream = Cipher(AES256(key), CTR(bytes(_BLOCK_BYTES))).encryptor()

    def __getstate__(self) -> None:
        raise TypeError("a copy of a secret stream would repeat its numbers")

    def bytes(self, count: int) -> bytes:
        """``count`` bytes."""
        if os.getpid() != self._process:
            raise RuntimeError("a forked process would repeat the secret numbers of its parent")
        return self._stream.update(bytes(count))

    def uniform(self, count: int) -> Floats:
        """``count`` float64, uniform on the multiples of 2**-53 in [0, 1)."""
        words = np.frombuffer(self.bytes(8 * count), "<u8") >> np.uint64(11)
        return words.astype(np.float64) * _UNIT

    def round(self, steps: Floats) -> Floats:
        """The integer below, or with the probability of the rest, to 2**-32, the one above; ``steps`` is used up."""
        below = np.floor(steps)
        steps -= below
        steps *= _CHANCES
        below += np.frombuffer(self.bytes(4 * len(steps)), "<u4") < steps
        return below

    def below(self, limits_N: Tensor) -> Tensor:
        """One integer for each limit, uniform from 0 to it exclusive.

        Args:
            limits_N: int64, 1 or more and far below 2**32.

        Returns:
            int64 (N,), off from uniform by less than limit / 2**53.
        """
        return (torch.from_numpy(self.uniform(len(limits_N))) * limits_N).long()

    def normal(self, count: int) -> Tensor:
        """``count`` standard normal deviates, float64 (count,)."""
        deviates = torch.empty(count, dtype=torch.float64)
        for part in deviates.split(_CHUNK):
            torch.sum(self._box_muller(_SUMMED * len(part)).view(_SUMMED, -1), 0, out=part)
        return deviates.mul_(_SUMMED**-0.5)

    def _box_muller(self, count: int) -> Tensor:
        """``count`` deviates, even in number; the two of one Box-Muller transform go into sums of two neighbours."""
        radius = torch.from_numpy(self.uniform(count // 2)).neg_().log1p_().mul_(-2).sqrt_()
        angle = torch.from_numpy(self.uniform(count // 2)).mul_(2 * math.pi)
        return torch.cat([torch.cos(angle).mul_(radius), angle.sin_().mul_(radius).roll(1)])
