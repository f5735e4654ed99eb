"""How do real numbers become integers whose sum is exact? In steps of a power of two, rounded up or down by chance.

Masks need a ring (bioface_core/secure): values become integers modulo 2**32, or 2**16 where bytes are dear, and a sum
of them means something only if it stays below half of that in magnitude. Rounding to the nearest step would push a mean
the same way in every round; rounding by chance, up as often as the value is near the upper step, is right on average.
Chance comes from the operating system: a rounding that can be guessed tells more of the value than the steps do.

Legend: n values of the vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bioface_core.messages import Code, demand
from bioface_core.secret import SecretRandom
from bioface_core.secure import Words

_CHUNK = 2**14  # values at a time: float64 copies stay in the processor's cache


@dataclass(frozen=True)
class FixedPoint:
    """The steps that hospitals and server agree on.

    No sum overflows. A value v within the bound B becomes the integer below or above v * scale, which is less than
    B * scale + 1 in magnitude; so the sum of at most S of them is less than S * (B * scale + 1). With L half the ring,
    ``scale`` is a power of two of at most ((L - 1) / S - 1) / B, hence S * (B * scale + 1) <= L - 1 < L. The quotient
    itself is rounded, by a part of 2**-52 in each of three operations: that is far less than the 1 to spare.

    Attributes:
        bound: largest magnitude of a value.
        members: most hospitals in a sum.
        bits: of the ring, 32 or 16.
    """

    bound: float
    members: int
    bits: Literal[32, 16] = 32

    def __post_init__(self) -> None:
        assert 0 < self.bound < math.inf and 1 <= self.members < 2 ** (self.bits // 2 + 4), "no such fixed point"

    @property
    def scale(self) -> float:
        """Steps to the unit: the largest power of two without overflow."""
        room = ((2 ** (self.bits - 1) - 1) / self.members - 1) / self.bound
        return math.ldexp(1.0, math.frexp(room)[1] - 1)

    def encode(self, values_n: Tensor, secret: SecretRandom) -> Words:
        """Values as integers of the ring, right on average to 2**-32 of a step.

        Args:
            values_n: float32 CPU (n,).
            secret: decides up or down.

        Returns:
            uint32 or uint16 (n,).

        Raises:
            WireError: a value beyond the bound, or NaN.
        """
        floats_n, whole_n = values_n.detach().numpy(), np.empty(len(values_n), self._signed)
        for start in range(0, len(floats_n), _CHUNK):
            steps = floats_n[start : start + _CHUNK].astype(np.float64)  # times a power of two: exact
            demand(bool(np.abs(steps).max() <= self.bound), Code.NORM, "a value beyond the fixed point's bound")
            steps *= self.scale
            whole_n[start : start + _CHUNK] = secret.round(steps)
        return whole_n.view(f"u{self.bits // 8}")

    def decode(self, total_n: Words) -> Tensor:
        """The sum of values whose integers add up to ``total_n`` in the ring.

        Args:
            total_n: uint32 or uint16 (n,).

        Returns:
            float64 (n,), exact: the sum of the rounded values.
        """
        return torch.from_numpy(total_n.view(self._signed).astype(np.float64)).div_(self.scale)

    @property
    def _signed(self) -> str:
        """The integers as numbers on either side of 0."""
        return f"i{self.bits // 8}"
