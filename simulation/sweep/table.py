"""What did a sweep find? A tidy table of every run, means with intervals over seeds, and differences seed by seed.

Intervals are Student's over seeds, 95 %. A difference is taken between two runs of one seed, which met the same
patients: what patients and splits do to both drops out of it.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student

from bioface_core.evaluate import Difference
from simulation.sweep.plan import ARM, Sweep

Row = dict[str, Any]
Cell = tuple[str, ...]  # the levels of all axes, and the arm
RATES = {"top1": "Top-1", "top3": "Top-3", "unseen_top1": "unseen Top-1"}
_RATIO = "angle_ratio"


@dataclass(frozen=True)
class Contrast:
    """One cell less another over the seeds that both have.

    Attributes:
        cell: what is compared.
        axis: in which they differ.
        reference: the other's level.
        difference: of macro Top-1.
        seeds: how many.
    """

    cell: Cell
    axis: str
    reference: str
    difference: Difference
    seeds: int


def axes_of(sweep: Sweep) -> tuple[str, ...]:
    """The axes, the arm last."""
    return (*sweep.vary, ARM)


def csv_text(sweep: Sweep, rows: Sequence[Row]) -> str:
    """One line for each run and arm; a measure that an arm has not is empty."""
    first = [*sweep.vary, "seed", ARM]
    measures = list(dict.fromkeys(name for row in rows for name in row if name not in first))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*first, *measures], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def cells_of(sweep: Sweep, rows: Sequence[Row]) -> dict[Cell, dict[int, Row]]:
    """Rows by cell and seed, cells in the order of the sweep."""
    cells: dict[Cell, dict[int, Row]] = {}
    for row in rows:
        cells.setdefault(tuple(row[axis] for axis in axes_of(sweep)), {})[row["seed"]] = row
    return cells


def spread(values: Sequence[float]) -> Difference:
    """The mean of several seeds with its 95 % interval; without end where there is but one seed."""
    middle = mean(values)
    if len(values) < 2:
        return Difference(middle, -math.inf, math.inf)
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return Difference(middle, middle - half, middle + half)


def contrasts(sweep: Sweep, rows: Sequence[Row], measure: str = "top1") -> list[Contrast]:
    """Every cell against the one that has the reference level in its place."""
    cells, axes = cells_of(sweep, rows), axes_of(sweep)
    found = []
    for axis, reference in sweep.against.items():
        place = axes.index(axis)
        for cell, by_seed in cells.items():
            other = _reference(cells, (*cell[:place], reference, *cell[place + 1 :]))
            seeds = sorted(by_seed.keys() & other.keys())
            if cell[place] != reference and seeds:
                pairs = [by_seed[seed][measure] - other[seed][measure] for seed in seeds]
                found.append(Contrast(cell, axis, reference, spread(pairs), len(seeds)))
    return found


def _reference(cells: dict[Cell, dict[int, Row]], wanted: Cell) -> dict[int, Row]:
    """The cell of the same arm, or the only one of these levels, for a level may have an arm of its own."""
    same_levels = [by_seed for cell, by_seed in cells.items() if cell[:-1] == wanted[:-1]]
    return cells.get(wanted) or (same_levels[0] if len(same_levels) == 1 else {})


def markdown(sweep: Sweep, rows: Sequence[Row]) -> str:
    """Both tables: every cell, and every difference; rates in per cent, differences in points."""
    return (
        "\n".join([*_cells_table(sweep, rows), *([""] + _contrasts_table(sweep, rows) if sweep.against else [])]) + "\n"
    )


def _cells_table(sweep: Sweep, rows: Sequence[Row]) -> list[str]:
    headings = [*axes_of(sweep), *RATES.values(), "angles, between over within", "seeds"]
    lines = [_line(headings), _line(["---"] * len(headings))]
    for cell, by_seed in cells_of(sweep, rows).items():
        rates = [_percent(spread([row[name] for row in by_seed.values()])) for name in RATES]
        ratio = mean(row[_RATIO] for row in by_seed.values())
        lines.append(_line([*cell, *rates, f"{ratio:.2f}", str(len(by_seed))]))
    return lines


def _contrasts_table(sweep: Sweep, rows: Sequence[Row]) -> list[str]:
    headings = [*axes_of(sweep), "less", "Top-1, points", "clear of 0"]
    lines = [_line(headings), _line(["---"] * len(headings))]
    for one in contrasts(sweep, rows):
        clear = "yes" if one.difference.is_clear else "no"
        lines.append(_line([*one.cell, one.reference, _points(one.difference), clear]))
    return lines


def _percent(value: Difference) -> str:
    """``73.8 ± 2.1``."""
    return f"{100 * value.value:.1f}{_half(value)}"


def _points(value: Difference) -> str:
    """``+2.1 ± 1.0``."""
    return f"{100 * value.value:+.1f}{_half(value)}"


def _half(value: Difference) -> str:
    half = 100 * (value.high - value.low) / 2
    return f" ± {half:.1f}" if math.isfinite(half) else ""


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
