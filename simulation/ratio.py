"""What does a benchmark say? One claim as a ratio, ours over the other's, and what was promised."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Ratio:
    """One claim.

    Attributes:
        name: what is compared.
        ratio: ours over the other's, smaller is better.
        target: at most this was promised.
        ours: seconds, unless the name says otherwise.
        other: the same of what ours is compared with.
    """

    name: str
    ratio: float
    target: float
    ours: float
    other: float

    @staticmethod
    def of(name: str, target: float, ours: float, other: float) -> Ratio:
        """Of one measurement of each."""
        return Ratio(name, round(ours / other, 4), target, round(ours, 6), round(other, 6))

    @staticmethod
    def of_pairs(name: str, target: float, pairs: Sequence[tuple[float, float]]) -> Ratio:
        """Medians of (ours, other's), each pair measured in turn."""
        ours, other = (median(column) for column in zip(*pairs, strict=True))
        return Ratio(name, round(median(one / two for one, two in pairs), 4), target, round(ours, 5), round(other, 5))


def timed(work: Callable[[], Result]) -> tuple[Result, tuple[float, float]]:
    """A result with its wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, (time.perf_counter() - wall, time.process_time() - cpu)
