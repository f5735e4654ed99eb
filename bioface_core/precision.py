"""How does a vector travel in fewer bytes? As float16 under one scale, or as int8 under a scale for every 256 values.

    16 bits  value / scale to the nearest float16; the scale is a power of two that puts the largest value below 2**15,
             so nothing overflows, and what is within 2**-29 of the largest keeps eleven bits
    8 bits   value / scale to one of the two integers around it, up as often as it is near the upper one: right on
             average. The scale is the block's largest magnitude over 127, rounded up

What rounding leaves behind is the sender's to keep and to add to its next vector (client/residuals.py). Both ends
compute what the receiver reads by the same operations, so they agree on it bit for bit.

Legend: n values of the vector, b blocks.

Source:
    Alistarh et al. 2017, "QSGD" (unbiased rounding under a scale for each block);
    Seide et al. 2014, "1-bit stochastic gradient descent"; Karimireddy et al. 2019, "Error feedback fixes SignSGD".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bioface_core.secret import SecretRandom

BLOCK = 256  # values under one scale: four bytes for it are a 64th of theirs
_CHUNK = 2**14  # values at a time, whole blocks: float64 copies stay in the processor's cache
_LARGEST = 127
_HALF_EXPONENT = 15  # float16 reaches 65504, just below 2**16; rounding up needs room
_LEAST_EXPONENT = -126  # of a float32 that is not denormal
_SCALE_BYTES = 4

FewBits = Literal[16, 8]
Bits = Literal[32, 16, 8]
_VALUES: dict[int, np.dtype[Any]] = {32: np.dtype("<f4"), 16: np.dtype("<f2"), 8: np.dtype("i1")}


@dataclass(frozen=True)
class Coded:
    """A vector as it travels.

    Attributes:
        bits: of a value.
        values_n: float16 or int8 (n,), little-endian.
        scales_b: float32 (b,), little-endian: one for all with 16 bits, one for each block with 8.
    """

    bits: FewBits
    values_n: npt.NDArray[Any]
    scales_b: npt.NDArray[np.float32]

    @cached_property
    def vector(self) -> Tensor:
        """What the receiver reads, float32 (n,): each value times its scale."""
        vector_n = self.values_n.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # of a liar's scales; the checks on receipt see infinity
            for start in range(0, len(vector_n), _CHUNK):
                vector_n[start : start + _CHUNK] *= self._spread(start)
        return torch.from_numpy(vector_n)

    def content(self) -> npt.NDArray[np.uint8]:
        """The bytes: all values, then the scales."""
        return np.frombuffer(self.values_n.tobytes() + self.scales_b.tobytes(), np.uint8)

    def shortened(self, factor: float) -> Coded:
        """The same with every scale times ``factor``."""
        return replace(self, scales_b=(self.scales_b * np.float32(factor)).astype("<f4"))

    def _spread(self, start: int) -> npt.NDArray[np.float32]:
        """The scale of each value of a chunk."""
        if self.bits == 16:
            return self.scales_b
        scales_b = self.scales_b[start // BLOCK : (start + _CHUNK) // BLOCK]
        return np.repeat(scales_b, BLOCK)[: len(self.values_n) - start]


def vector_bytes(size: int, bits: Bits) -> int:
    """How many bytes n values take on their way, as float32 or coded."""
    return size * _VALUES[bits].itemsize + _blocks(size, bits) * _SCALE_BYTES


def coded_from(content: npt.NDArray[np.uint8], size: int, bits: FewBits) -> Coded:
    """The inverse of ``Coded.content``; what the bytes say is not looked at.

    Args:
        content: uint8, ``vector_bytes(size, bits)`` of them.
        size: n.
        bits: of a value.
    """
    end = size * _VALUES[bits].itemsize
    values, scales = content[:end].tobytes(), content[end:].tobytes()
    return Coded(bits, np.frombuffer(values, _VALUES[bits]), np.frombuffer(scales, "<f4"))


def as_float16(vector: Tensor) -> Coded:
    """A vector in 16 bits a value, to the nearest.

    Args:
        vector: float32 CPU (n,). Where it is not finite, neither is what the receiver reads.
    """
    exponent = math.frexp(float(vector.abs().max()) if len(vector) else 0.0)[1]
    scale = math.ldexp(1.0, max(_LEAST_EXPONENT, exponent - _HALF_EXPONENT))
    values_n = vector.detach().div(scale).half().numpy().astype(_VALUES[16], copy=False)
    return Coded(16, values_n, np.array([scale], "<f4"))


def as_int8(vector: Tensor, secret: SecretRandom) -> Coded:
    """A vector in 8 bits a value, right on average: to 2**-32 of a step, and what float32 cannot say.

    Args:
        vector: float32 CPU (n,), finite.
        secret: decides up or down. A rounding that can be guessed tells more of the value than the steps do.
    """
    floats_n, values_n = vector.detach().numpy(), np.empty(len(vector), _VALUES[8])
    scales_b = np.empty(_blocks(len(vector), 8), "<f4")
    for start in range(0, len(floats_n), _CHUNK):
        chunk = floats_n[start : start + _CHUNK].astype(np.float64)
        scales = _scales(np.maximum.reduceat(np.abs(chunk), np.arange(0, len(chunk), BLOCK)))
        scales_b[start // BLOCK :][: len(scales)] = scales
        divisors = np.repeat(scales.astype(np.float64), BLOCK)[: len(chunk)]
        steps = np.divide(chunk, divisors, out=np.zeros_like(chunk), where=divisors > 0)
        values_n[start : start + _CHUNK] = secret.round(steps)
    return Coded(8, values_n, scales_b)


def _scales(peaks_b: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """For each block the least float32 of which 127 reach its largest magnitude."""
    scales = (peaks_b / _LARGEST).astype(np.float32)
    short = scales.astype(np.float64) * _LARGEST < peaks_b
    return np.where(short, np.nextafter(scales, np.float32(np.inf)), scales)


def _blocks(size: int, bits: Bits) -> int:
    """How many scales there are."""
    return {32: 0, 16: 1, 8: -(-size // BLOCK)}[bits]
