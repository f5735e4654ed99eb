"""What does a CSV manifest say? One row per photo: ``photo,patient,syndrome``; where known, age, sex and ancestry."""

from __future__ import annotations

import math
from pathlib import Path

from bioface_core.errors import PhotoError
from client.prepare.sources import Entry, readable
from client.prepare.table import Row, read_table

REQUIRED = ("photo", "patient", "syndrome")
OPTIONAL = ("age_months", "sex", "ancestry")
_SEXES = {"": -1, "unknown": -1, "f": 0, "female": 0, "0": 0, "m": 1, "male": 1, "1": 1}
_OLDEST_MONTHS = 1500.0


def read_manifest(path: Path) -> list[Entry]:
    """The photos of a manifest.

    Args:
        path: a CSV file; photo paths in it are relative to its folder.

    Returns:
        One entry per row, ordered by class, patient and name.

    Raises:
        PhotoError: not a CSV file, a missing column, a missing photo, a value that cannot be read, or a patient in
            two classes. The line and what is wrong with it are named.
    """
    rows = read_table(path, REQUIRED, OPTIONAL)
    if not rows:
        raise PhotoError(f"{path} lists no photo; expected one row per photo below the header {','.join(REQUIRED)}")
    entries = [_entry(path, line, row) for line, row in rows]
    _check_patients(path, entries)
    return sorted(entries, key=lambda entry: (entry.label, entry.patient, entry.name))


def _entry(path: Path, line: int, row: Row) -> Entry:
    """One row as an entry."""
    place = f"{path}, line {line}"
    empty = [name for name in REQUIRED if not row[name]]
    if empty:
        raise PhotoError(f"{place}: {empty[0]} is empty; expected a value in every row")
    photo = path.parent / row["photo"]
    if not photo.is_file():
        raise PhotoError(f"{place}: there is no photo {row['photo']}; paths are relative to {path.parent}")
    return Entry(
        photo,
        readable(row["photo"]),
        row["patient"],
        row["syndrome"],
        _age(place, row.get("age_months", "")),
        _sex(place, row.get("sex", "")),
        row.get("ancestry", ""),
    )


def _age(place: str, text: str) -> float:
    if text.lower() in ("", "unknown"):
        return math.nan
    try:
        months = float(text.replace(",", "."))
    except ValueError:
        months = math.nan
    if not 0 <= months <= _OLDEST_MONTHS:
        raise PhotoError(f"{place}: age_months is {text!r}; expected months from 0 to {_OLDEST_MONTHS:.0f}, or nothing")
    return months


def _sex(place: str, text: str) -> int:
    if text.lower() not in _SEXES:
        raise PhotoError(f"{place}: sex is {text!r}; expected f, m or nothing")
    return _SEXES[text.lower()]


def _check_patients(path: Path, entries: list[Entry]) -> None:
    """Refuses a patient who has two syndromes."""
    label_of: dict[str, str] = {}
    for entry in entries:
        label = label_of.setdefault(entry.patient, entry.label)
        if label != entry.label:
            raise PhotoError(
                f"{path}: patient {entry.patient} is in two classes, {label} and {entry.label};"
                " expected one syndrome per patient: correct the rows"
            )
