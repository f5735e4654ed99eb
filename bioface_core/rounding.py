"""How do counts of patients leave a hospital, so that no exact number does? Rounded at random, without bias, together.

Systematic random rounding, row by row (a true class is a row): with a secret draw U from 0 to step - 1, the row's
cumulative sums C_j become step * floor((C_j + U) / step), and the cells are their differences. Every cell is then a
multiple of ``step``, less than one step off, right on average over U, and the cells still add up to the row's total,
which is rounded in the same way. Both tables begin with the patients who were recognised and use the same U, so that
they still speak of the same patients. The tables of reliability, which are not by syndrome, are one row each: first who
was right, from unsure to sure, then who was not; all with one U of their own, so that they agree with each other.

U is a keyed hash of the syndrome's name: the hospital's key is secret, and its answer to the same counts is always the
same. If U were drawn afresh for every question, asking again would average the noise away; so a syndrome's total,
which is the same in every round, leaves as the same number in every round and in every study.

This is disclosure control as in official statistics, not differential privacy: a lab that sees many different models'
counts learns more about the patients than from one.

Source:
    Fellegi 1975, "Controlled random rounding", Survey Methodology 1 (cumulative sums, one draw);
    Cox 1987, "A constructive procedure for unbiased controlled rounding", JASA 82 (unbiased, additive).

Legend: K syndromes.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

import torch
from torch import Tensor

from bioface_core.calibration import Reliability
from bioface_core.evaluate import Counts

_RELIABILITY = "\0reliability"  # in the place of a syndrome's name, and none's


def round_counts(counts: Counts, step: int, key: bytes, classes: Sequence[str]) -> Counts:
    """Counts of which every cell is a multiple of ``step``.

    Args:
        counts: exact, or rounded before with the same key and step, which changes nothing.
        step: patients, 1 or more; 1 leaves the counts as they are.
        key: the hospital's secret, 16 bytes or more.
        classes: the K syndromes' names, in order.

    Returns:
        Counts that ``Counts.from_json`` accepts.
    """
    assert len(classes) == counts.classes, f"{len(classes)} names for {counts.classes} classes"
    assert len(key) >= 16, "a key of fewer than 16 bytes can be guessed"
    draws_K = torch.tensor([secret_draw(key, name, step) for name in classes], dtype=torch.int64)
    own_first_KK = _own_first(counts.classes)
    confusion_KK = round_rows(counts.confusion_KK.gather(1, own_first_KK), step, draws_K)
    back_KK = own_first_KK.argsort(dim=1)
    ranks_KK = round_rows(counts.ranks_KK, step, draws_K)
    return Counts(confusion_KK.gather(1, back_KK), ranks_KK, _round_reliability(counts.reliability, step, key))


def round_rows(cells_RJ: Tensor, step: int, draws_R: Tensor) -> Tensor:
    """Rounds every row with its own draw.

    Args:
        cells_RJ: int64, not negative.
        step: 1 or more.
        draws_R: int64, 0 to ``step`` - 1.

    Returns:
        int64 (R, J), multiples of ``step``, each less than ``step`` off.
    """
    cumulative_RJ = (cells_RJ.cumsum(dim=1) + draws_R[:, None]) // step * step
    return cumulative_RJ.diff(dim=1, prepend=cumulative_RJ.new_zeros(len(cells_RJ), 1))


def secret_draw(key: bytes, name: str, step: int) -> int:
    """U of a syndrome: 0 to ``step`` - 1, the same for the same arguments; without the key, nobody can tell it."""
    digest = hmac.new(key, b"counts\0" + name.encode("utf-8"), hashlib.sha256).digest()
    return int.from_bytes(digest, "big") % step


def _round_reliability(exact: Reliability, step: int, key: bytes) -> Reliability:
    draw = secret_draw(key, _RELIABILITY, step)
    return Reliability(_round_table(exact.confidence_TB2, step, draw), _round_table(exact.nearness_B2, step, draw))


def _round_table(table_B2: Tensor, step: int, draw: int) -> Tensor:
    """Rounds a table, or a stack of tables (..., B, 2), as rows."""
    rows_R2B = table_B2.flip(-1).mT.reshape(-1, 2 * table_B2.shape[-2])
    rounded_R2B = round_rows(rows_R2B, step, torch.full((len(rows_R2B),), draw))
    return rounded_R2B.view(*table_B2.shape[:-2], 2, -1).mT.flip(-1)


def _own_first(classes: int) -> Tensor:
    """Columns of each row of the confusion table with its diagonal in front, int64 (K, K)."""
    return torch.tensor([[k, *(j for j in range(classes) if j != k)] for k in range(classes)], dtype=torch.int64)
