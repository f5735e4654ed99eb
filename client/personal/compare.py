"""Which of two models is better for the same patients? Pair by pair, with what chance alone would do.

Legend: P patients, K syndromes.

Source: McNemar 1947 (exact, two-sided); Tango 1998 is not needed: with few pairs the counts say more than an interval.
"""

from __future__ import annotations

from dataclasses import dataclass

from scipy.stats import binomtest
from torch import Tensor

from bioface_core.evaluate import Rate, rate


@dataclass(frozen=True)
class Comparison:
    """Two models on the same held-out patients.

    Attributes:
        shared: Top-1 of the shared model.
        personal: Top-1 of the hospital's own.
        gained: patients whom only the hospital's own recognises.
        lost: patients whom only the shared one recognises.
        p_value: how often chance alone would part them as far, 0 to 1.
        shared_loss: mean log loss.
        personal_loss: mean log loss.
    """

    shared: Rate
    personal: Rate
    gained: int
    lost: int
    p_value: float
    shared_loss: float
    personal_loss: float


def compare(shared: tuple[Tensor, Tensor], personal: tuple[Tensor, Tensor], temperature: float) -> Comparison:
    """Compares two models.

    Args:
        shared: scores (P, K) and int64 labels (P,).
        personal: the same of the same patients in the same order.
        temperature: scores are divided by it.
    """
    (shared_PK, labels_P), (personal_PK, _) = shared, personal
    before_P, after_P = shared_PK.argmax(1) == labels_P, personal_PK.argmax(1) == labels_P
    gained, lost = int((after_P & ~before_P).sum()), int((before_P & ~after_P).sum())
    losses = [
        -float((scores_PK / temperature).log_softmax(1).gather(1, labels_P[:, None]).mean())
        for scores_PK in (shared_PK, personal_PK)
    ]
    return Comparison(
        rate(int(before_P.sum()), len(labels_P)),
        rate(int(after_P.sum()), len(labels_P)),
        gained,
        lost,
        float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0,
        *losses,
    )
