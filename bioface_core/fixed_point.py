"""How do real numbers become integers whose sum is exact? In steps of a power of two, rounded up or down by chance.

Masks need a ring (bioface_core/secure): values become integers modulo 2**32, and a sum of them means something only if
it stays below 2**31 in magnitude. Rounding to the nearest step would push a mean the same way in every round; rounding
by chance, up as often as the value is near the upper step, is right on average. Chance comes from the operating system:
a rounding that can be guessed tells more of the value than the steps do.

Legend: n values of the vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bioface_core.messages import Code, demand
from bioface_core.secret import SecretRandom

_CHUNK = 2**14  # values at a time: float64 copies stay in the processor's cache
_LIMIT = 2**31
_UNIT = 2.0**32


@dataclass(frozen=True)
class FixedPoint:
    """The steps that hospitals and server agree on.

    No sum overflows. A value v within the bound B becomes the integer below or above v * scale, which is less than
    B * scale + 1 in magnitude; so the sum of at most S of them is less than S * (B * scale + 1). ``scale`` is a power
    of two of at most ((2**31 - 1) / S - 1) / B, hence S * (B * scale + 1) <= 2**31 - 1 < 2**31. The quotient itself is
    rounded, by a part of 2**-52 in each of three operations: that is far less than the 1 to spare.

    Attributes:
        bound: largest magnitude of a value.
        members: most hospitals in a sum.
    """

    bound: float
    members: int

    def __post_init__(self) -> None:
        assert 0 < self.bound < math.inf and 1 <= self.members < 2**20, "no such fixed point"

    @property
    def scale(self) -> float:
        """Steps to the unit: the largest power of two without overflow."""
        room = ((_LIMIT - 1) / self.members - 1) / self.bound
        return math.ldexp(1.0, math.frexp(room)[1] - 1)

    def encode(self, values_n: Tensor, secret: SecretRandom) -> npt.NDArray[np.uint32]:
        """Values as integers modulo 2**32, right on average to 2**-32 of a step.

        Args:
            values_n: float32 CPU (n,).
            secret: decides up or down.

        Returns:
            uint32 (n,).

        Raises:
            WireError: a value beyond the bound, or NaN.
        """
        floats_n, whole_n = values_n.detach().numpy(), np.empty(len(values_n), np.int32)
        for start in range(0, len(floats_n), _CHUNK):
            steps = floats_n[start : start + _CHUNK].astype(np.float64)  # times a power of two: exact
            demand(bool(np.abs(steps).max() <= self.bound), Code.NORM, "a value beyond the fixed point's bound")
            steps *= self.scale
            whole_n[start : start + _CHUNK] = _round(steps, secret)
        return whole_n.view(np.uint32)

    def decode(self, total_n: npt.NDArray[np.uint32]) -> Tensor:
        """The sum of values whose integers add up to ``total_n`` modulo 2**32.

        Args:
            total_n: uint32 (n,).

        Returns:
            float64 (n,), exact: the sum of the rounded values.
        """
        return torch.from_numpy(total_n.view(np.int32).astype(np.float64)).div_(self.scale)


def _round(steps: npt.NDArray[np.float64], secret: SecretRandom) -> npt.NDArray[np.float64]:
    """The integer below, or with the probability of the rest the one above; ``steps`` is used up."""
    below = np.floor(steps)
    steps -= below
    steps *= _UNIT
    chance = np.frombuffer(secret.bytes(4 * len(steps)), "<u4")
    below += chance < steps
    return below
