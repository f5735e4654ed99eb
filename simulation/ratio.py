"""What does a benchmark say? One claim as a ratio, ours over the other's, and what was promised."""

from __future__ import annotations

from dataclasses import dataclass


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
