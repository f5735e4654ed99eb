"""How are answers shown in a terminal? A table, and what must be said beside it."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from bioface_core.predict import Answer
from bioface_core.report.words import NOT_KNOWN, plural
from client.predict.run import Result

NOT_A_DIAGNOSIS = "Trained on phantoms or on few patients; made for research. No answer here is a diagnosis."


def table(results: Sequence[Result], top: int) -> Table:
    """The answers, each with its first ``top`` syndromes."""
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    with_terms = any(result.prediction.updated for result in results)
    # In a narrow terminal names and reasons take several lines; numbers are never cut.
    for heading in ("Patient", "Syndrome"):
        grid.add_column(heading, overflow="fold")
    for heading in ("OMIM", "ORPHA"):
        grid.add_column(heading, no_wrap=True)
    for heading in ("If one\nof these", *(["with\nthe terms"] if with_terms else []), "Cosine"):
        grid.add_column(heading, no_wrap=True, justify="right")
    for result in results:
        name, prediction = escape(result.case.name), result.prediction
        if prediction.answer is not Answer.RANKED:
            why = ", ".join((*prediction.refused, *result.details))
            grid.add_row(name, f"[bold]{prediction.answer}[/]" + (f" ({escape(why)})" if why else ""))
            continue
        after = {one.key: one.after for one in prediction.updated}
        for place, ranked in enumerate(prediction.ranking[:top]):
            ids = (str(ranked.omim or ""), str(ranked.orpha or ""))
            likely = [_percent(ranked.probability), *([_percent(after[ranked.key])] if with_terms else [])]
            shown = escape(ranked.name) + (f" (gallery, {ranked.entries})" if ranked.entries else "")
            grid.add_row("" if place else name, shown, *ids, *likely, f"{ranked.cosine:.2f}")
    return grid


def _percent(probability: float | None) -> str:
    return NOT_KNOWN if probability is None else f"{100 * probability:.0f} %"


def describe(results: Sequence[Result], calibrated_on: int) -> str:
    """What the answers rest on, and what they are not.

    Args:
        results: all answers.
        calibrated_on: patients.
    """
    photos = sum(len(result.case.photos) for result in results)
    spent = sum(result.seconds for result in results)
    basis = f"Probabilities calibrated on {calibrated_on:,} held-out patients" if calibrated_on else "Not calibrated"
    return f"{basis}. {NOT_A_DIAGNOSIS}\n{plural(photos, 'photo')}, {spent / max(1, photos):.2f} s each."
