"""How is it told what a hospital's own model is worth? Beside the shared one, with what cannot be known."""

from __future__ import annotations

from pathlib import Path

from bioface_core.report.words import interval, percent, plural
from bioface_core.syndromes import catalogue
from client.personal.fit import Personal

_CLEAR = 0.05


def describe(made: Personal, out: Path) -> str:
    """The result in a few lines."""
    compared = made.comparison
    verdict = "clearly different" if compared.p_value < _CLEAR else "chance alone could do that"
    learned_from = plural(made.trained_on, "patient")
    lines = [
        f"{plural(made.epochs, 'epoch')} on {learned_from} helped those who were left out most."
        if made.epochs
        else f"No epochs on {learned_from} helped those who were left out: the hospital's own model is the shared one.",
        f"On {plural(compared.shared.patients, 'held-out patient')}, whom neither has seen:",
        f"  shared     Top-1 {percent(compared.shared.value)} ({interval(compared.shared)}), "
        f"log loss {compared.shared_loss:.3f}",
        f"  personal   Top-1 {percent(compared.personal.value)} ({interval(compared.personal)}), "
        f"log loss {compared.personal_loss:.3f}",
        f"  {compared.gained} gained, {compared.lost} lost; p = {compared.p_value:.2g}: {verdict}.",
    ]
    if made.epochs and made.lacking:
        known = catalogue().syndromes
        names = ", ".join(known[key].name if key in known else key for key in made.lacking)
        lines.append(f"Not learned from here, and perhaps recognised worse than before: {names}.")
    lines.append(f"{out} holds it. It stays in this hospital: nothing sends it, and `bioface export` refuses it.")
    return "\n".join(lines)
