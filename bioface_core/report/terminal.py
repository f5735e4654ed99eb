"""What does a run's result look like in a terminal? One table that fits 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bioface_core.report.facts import Arm, Report
from bioface_core.report.words import NOT_KNOWN, headline, moved, percent, plural, whole_interval

if TYPE_CHECKING:
    from rich.table import Table

_NAME_WIDTH = 16  # "hospital-1 alone"
_STYLES = {"alone": "", "federated": "bold cyan", "pooled": ""}


def table(report: Report) -> Table:
    """Every arm with its rates on everyone's held-out patients.

    Args:
        report: of a run, finished or not.

    Returns:
        A rich table; its caption says what the columns mean, and what the result is.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    grid = Table(
        title=f"{report.study.name}: who recognises held-out patients?",
        caption="\n".join(_caption(report)),
        box=box.SIMPLE_HEAD,
        title_style="bold",
        title_justify="left",
        caption_justify="left",
        caption_style="",
        padding=(0, 1, 0, 0),
    )
    grid.add_column("Trained by", overflow="fold", min_width=_NAME_WIDTH)
    for heading in ("Macro Top-1", "Macro Top-3", "Own", "Patients", "Seconds"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for position, arm in enumerate(report.arms):
        last_of_kind = arm.kind != report.arms[min(position + 1, len(report.arms) - 1)].kind
        grid.add_row(escape(arm.name), *_cells(arm), style=_STYLES[arm.kind], end_section=last_of_kind)
    return grid


def _cells(arm: Arm) -> list[str]:
    rates = [f"{percent(rate.value)} ({whole_interval(rate)})" for rate in (arm.top1, arm.top3)]
    own = NOT_KNOWN if arm.own_top1 is None else percent(arm.own_top1.value)
    patients = NOT_KNOWN if arm.patients is None else f"{arm.patients:,}"
    return [*rates, own, patients, f"{arm.seconds:,.0f}"]


def _caption(report: Report) -> list[str]:
    """How to read it, the result, what it took, what is missing."""
    federated = report.federated
    patients = federated.top1.patients if federated else 0
    chance = percent(1 / max(1, len(report.study.syndromes)))
    reading = (
        f"On the {plural(patients, 'held-out patient')} of all hospitals, averaged over "
        f"{plural(len(report.study.syndromes), 'syndrome')}; 95 % intervals in brackets; guessing: {chance}. "
        "Own: Top-1 on the hospital's own held-out patients."
    )
    return [reading, "", *headline(report), *moved(report), *report.notes]
