"""What does a sweep leave? Its table (CSV), its means and differences (Markdown), and a figure for each rate (SVG)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bioface_core.files import write_text
from simulation.sweep.chart import draw
from simulation.sweep.plan import Sweep
from simulation.sweep.table import RATES, Row, csv_text, markdown


def write_results(folder: Path, sweep: Sweep, rows: Sequence[Row]) -> str:
    """Writes ``table.csv``, ``summary.md`` and a figure for each rate; gives the text of the summary.

    Args:
        folder: of the sweep.
        sweep: what was asked.
        rows: what came out.
    """
    text = markdown(sweep, rows)
    write_text(folder / "table.csv", csv_text(sweep, rows))
    write_text(folder / "summary.md", text)
    for measure, title in RATES.items():
        write_text(folder / f"{measure}.svg", draw(sweep, rows, measure, f"macro {title}"))
    return text
