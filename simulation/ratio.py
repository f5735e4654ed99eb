"""What does a benchmark say? One claim as a ratio, ours over the other's, and what was promised."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median


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
    def of_pairs(name: str, target: float, pairs: list[tuple[float, float]]) -> Ratio:
        """Medians over pairs of (ours, other) that were measured in turn; the ratio is that of the pairs' own."""
        ratio = median(ours / other for ours, other in pairs)
        ours, other = (median(column) for column in zip(*pairs, strict=True))
        return Ratio(name, round(ratio, 4), target, round(ours, 5), round(other, 5))
