"""What came of every photo? A local table, photo by photo, and the counts.

Both files lie in the store's folder. They name patients and photos: like the store they stay on the hospital's machine.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bioface_core.quality import Findings, Reason
from client.prepare.sources import Entry

TABLE, SUMMARY = "report.csv", "report.json"
_MEASURES = ("probability", "rival", "eye_distance", "yaw", "nose_height", "blur")
_COLUMNS = ("photo", "patient", "class", "outcome", "reason", "detail", "side", *_MEASURES)


@dataclass(frozen=True)
class Verdict:
    """What became of one photo.

    Attributes:
        reason: why it is refused, None if it is kept.
        detail: what exactly was found.
    """

    reason: Reason | None
    detail: str = ""


@dataclass(frozen=True)
class ClassCounts:
    """What came of one class: photos found and kept, patients kept, and how many of those are held out."""

    found: int
    kept: int
    patients: int
    heldout_patients: int


@dataclass(frozen=True)
class Outcome:
    """What came of all photos.

    Attributes:
        found: files that were looked at.
        kept: photos in the store.
        refused: reason -> count, the most frequent first.
        classes: by class.
        store: the folder.
        notes: what a person should look at.
    """

    found: int
    kept: int
    refused: dict[str, int]
    classes: dict[str, ClassCounts]
    store: Path
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self) | {"store": str(self.store), "report": str(self.store / TABLE), "notes": list(self.notes)}


def count(entries: list[Entry], verdicts: list[Verdict], heldout: set[str], store: Path) -> Outcome:
    """Adds up what came of the photos.

    Args:
        entries: every file.
        verdicts: one for each.
        heldout: patients who are held out.
        store: where the photos are.
    """
    kept = [entry for entry, verdict in zip(entries, verdicts, strict=True) if verdict.reason is None]
    found_in, kept_in = (Counter(entry.label for entry in some) for some in (entries, kept))
    patients = {(entry.label, entry.patient) for entry in kept}
    patients_in = Counter(label for label, _ in patients)
    held_in = Counter(label for label, patient in patients if patient in heldout)
    return Outcome(
        len(entries),
        len(kept),
        refused(verdicts),
        {name: ClassCounts(n, kept_in[name], patients_in[name], held_in[name]) for name, n in sorted(found_in.items())},
        store,
        _notes(entries, verdicts),
    )


def refused(verdicts: list[Verdict]) -> dict[str, int]:
    """Reason -> count, the most frequent first."""
    return {str(reason): n for reason, n in Counter(v.reason for v in verdicts if v.reason).most_common()}


def describe(outcome: Outcome) -> str:
    """The outcome in a few lines."""
    patients = sum(one.patients for one in outcome.classes.values())
    heldout = sum(one.heldout_patients for one in outcome.classes.values())
    lines = [
        f"{outcome.kept} of {outcome.found} photos kept: {len(outcome.classes)} classes, {patients} patients,"
        f" {heldout} of them held out",
        *(f"{n} refused: {reason}" for reason, n in outcome.refused.items()),
        *outcome.notes,
        f"store: {outcome.store}, photo by photo: {outcome.store / TABLE}",
    ]
    return "\n".join(lines)


def table(entries: list[Entry], verdicts: list[Verdict], findings: Findings, heldout: set[str]) -> str:
    """The report as CSV, one row per file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    measures = zip(*(findings.columns()[f"{name}_N"].tolist() for name in _MEASURES), strict=True)
    for entry, verdict, measured in zip(entries, verdicts, measures, strict=True):
        side = "" if verdict.reason else "held out" if entry.patient in heldout else "train"
        outcome = "refused" if verdict.reason else "kept"
        told = (entry.name, entry.patient, entry.label, outcome, verdict.reason or "", verdict.detail, side)
        writer.writerow([*told, *(f"{value:.3g}" if measured[0] else "" for value in measured)])
    return text.getvalue()


def summary(outcome: Outcome) -> str:
    """The counts as JSON, without a path."""
    content = {name: value for name, value in outcome.to_json().items() if name not in ("store", "report")}
    return json.dumps(content, indent=1, ensure_ascii=False)


def _notes(entries: list[Entry], verdicts: list[Verdict]) -> tuple[str, ...]:
    """Copies of one photo under two classes: one of the two labels is wrong."""
    label_of = {entry.name: entry.label for entry in entries}
    crossed = [
        entry.name
        for entry, verdict in zip(entries, verdicts, strict=True)
        if verdict.reason is Reason.DUPLICATE and label_of[verdict.detail.removeprefix("of ")] != entry.label
    ]
    if not crossed:
        return ()
    return (f"look at {len(crossed)} photos that are in two classes at once, such as {crossed[0]}",)
