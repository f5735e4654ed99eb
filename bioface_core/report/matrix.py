"""Who is taken for whom, and who is where? Tables of counts as shades, and a picture where a table is too large.

Legend: K syndromes, S hospitals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from bioface_core.report.facts import Hospital, Report
from bioface_core.report.svg import element, picture

SHADES = 5
MOST_CLASSES_IN_A_TABLE = 16
_SIZE, _EDGE = 420.0, 10.0


@dataclass(frozen=True)
class Cell:
    """A count, and how dark it is shown: 0 for none to ``SHADES``."""

    count: int
    shade: int


def shade(share: float) -> int:
    """0 for nothing, 1 for up to a fifth, ... ``SHADES`` for more than four fifths."""
    return min(SHADES, math.ceil(SHADES * share - 1e-9)) if share > 0 else 0


def confusion_rows(confusion: Sequence[Sequence[int]]) -> list[list[Cell]]:
    """The confusion table, each row shaded by the share of its syndrome's patients."""
    return [[Cell(count, shade(count / max(1, sum(row)))) for count in row] for row in confusion]


def hospital_rows(hospitals: Sequence[Hospital], classes: int) -> list[list[Cell]]:
    """Training patients, K rows of S cells, shaded by the largest of all."""
    largest = max((count for hospital in hospitals for count in hospital.train_patients), default=0) or 1
    counts_KS = [[hospital.train_patients[label] for hospital in hospitals] for label in range(classes)]
    return [[Cell(count, shade(count / largest)) for count in row] for row in counts_KS]


def confusion_picture(report: Report) -> Markup:
    """The confusion table of many syndromes: a square per pair that occurs, named when pointed at."""
    side = (_SIZE - 2 * _EDGE) / max(1, len(report.confusion))
    squares = [
        _square(report, true, said, side)
        for true, row in enumerate(report.confusion)
        for said, count in enumerate(row)
        if count
    ]
    frame = element("rect", x=_EDGE, y=_EDGE, width=_SIZE - 2 * _EDGE, height=_SIZE - 2 * _EDGE, class_="frame")
    right = sum(row[true] for true, row in enumerate(report.confusion))
    everyone = sum(map(sum, report.confusion))
    description = f"True syndrome downwards, predicted across; {right} of {everyone} patients are on the diagonal."
    return picture("Confusion matrix", description, _SIZE, _SIZE, frame, *squares)


def _square(report: Report, true: int, said: int, side: float) -> Markup:
    row = report.confusion[true]
    words = f"{report.syndromes[true].name} taken for {report.syndromes[said].name}: {row[said]} of {sum(row)}"
    x, y = _EDGE + said * side, _EDGE + true * side
    title = element("title", words)
    return element("rect", title, x=x, y=y, width=side, height=side, class_=f"fill{shade(row[said] / sum(row))}")
