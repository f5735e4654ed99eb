"""How is it told how sure the model may be? Sentences, and what is left of the risk when the unsure go unanswered."""

from __future__ import annotations

from bioface_core.calibration import ACCEPTED, Calibration, risk_at
from bioface_core.report.words import percent, plural

_COVERAGES = (1.0, 0.9, 0.8, 0.6, 0.4)


def coverage_rows(calibration: Calibration | None) -> list[tuple[str, str]]:
    """Share of the patients who get an answer, surest first, and share of these answers that are wrong."""
    if calibration is None:
        return []
    return [(percent(coverage), percent(risk_at(calibration.curve, coverage))) for coverage in _COVERAGES]


def sureness(calibration: Calibration) -> tuple[str, ...]:
    """What was counted, and what it means for an answer."""
    return (
        f"Counted on {plural(calibration.patients, 'held-out patient')}, one photo of each. Scores are divided by a "
        f"temperature of {calibration.temperature:.3g} to become probabilities; these are then off by "
        f"{100 * calibration.ece:.1f} points on average (ECE, on the same patients; on so many, chance alone gives "
        f"{100 * calibration.ece_by_chance:.1f}).",
        f"No syndrome is recognised below a nearness of {calibration.nearness:.3g}, which {percent(ACCEPTED)} of these "
        "patients reach. That a face is near does not mean that the patient has any of the syndromes.",
    )
