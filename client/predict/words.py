"""How are answers shown in a terminal? A table, and what must be said beside it."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from bioface_core.predict import Answer
from bioface_core.report.words import NOT_KNOWN
from client.predict.run import Result

_NOT_A_DIAGNOSIS = "Trained on phantoms or on few patients; made for research. No answer here is a diagnosis."


def table(results: Sequence[Result], top: int) -> Table:
    """The answers, each with its first ``top`` syndromes."""
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("Patient", "Syndrome", "OMIM", "ORPHA"):
        grid.add_column(heading, no_wrap=heading != "Patient")
    for heading in ("If one of these", "Cosine"):
        grid.add_column(heading, justify="right")
    for result in results:
        name, prediction = escape(result.case.name), result.prediction
        if prediction.answer is not Answer.RANKED:
            why = ", ".join((*prediction.refused, *result.details))
            grid.add_row(name, f"[bold]{prediction.answer}[/]" + (f" ({escape(why)})" if why else ""))
            continue
        for place, ranked in enumerate(prediction.ranking[:top]):
            ids = (str(ranked.omim or ""), str(ranked.orpha or ""))
            likely = NOT_KNOWN if ranked.probability is None else f"{100 * ranked.probability:.0f} %"
            grid.add_row("" if place else name, escape(ranked.name), *ids, likely, f"{ranked.cosine:.2f}")
    return grid


def describe(results: Sequence[Result], calibrated_on: int) -> str:
    """What the answers rest on, and what they are not.

    Args:
        results: all answers.
        calibrated_on: patients.
    """
    photos = sum(len(result.case.photos) for result in results)
    spent = sum(result.seconds for result in results)
    basis = f"Probabilities calibrated on {calibrated_on:,} held-out patients" if calibrated_on else "Not calibrated"
    return f"{basis}. {_NOT_A_DIAGNOSIS}\n{photos:,} photos, {spent / max(1, photos):.2f} s each."
