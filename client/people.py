"""Who is the same patient? By keyed fingerprints of photos: a store names nobody, and neither does what is kept here.

A patient is known by the marks of all their photos. Whoever shares a photo with a known patient is that patient, so
that somebody stays the same person when the store is prepared anew with more photos. The key is the hospital's secret:
without it, a mark says nothing about a photo, not even to whoever has the photo.
"""

from __future__ import annotations

import hashlib
import hmac
import sqlite3
from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from bioface_core.photos import PhotoSet

TABLES = (
    "CREATE TABLE IF NOT EXISTS patients (patient INTEGER PRIMARY KEY AUTOINCREMENT)",
    "CREATE TABLE IF NOT EXISTS marks (mark BLOB PRIMARY KEY, patient INTEGER NOT NULL) WITHOUT ROWID",
)
_MARK_BYTES = 16
_PURPOSE = b"bioface: marks of photos"  # the hospital's secret has other uses

Marks = frozenset[bytes]


def patient_marks(photos: PhotoSet, key: bytes) -> list[Marks]:
    """The marks of each patient, in the order of ``photos.patients_N.unique()``.

    Args:
        photos: on any device.
        key: the hospital's secret, 16 bytes or more, the same as long as the hospital is.
    """
    assert len(key) >= 16, "a key of fewer than 16 bytes can be guessed"
    own_key = hmac.digest(key, _PURPOSE, "sha256")
    _, whose_N = photos.patients_N.unique(return_inverse=True)
    marks: list[set[bytes]] = [set() for _ in range(photos.patients())]
    for photo_CHW, whose in zip(photos.photos_NCHW, whose_N.tolist(), strict=True):
        marks[whose].add(_mark(photo_CHW, own_key))
    return [frozenset(of_one) for of_one in marks]


def known_patients(database: sqlite3.Connection) -> set[int]:
    """The numbers of all who were ever in the hospital's store."""
    return {patient for (patient,) in database.execute("SELECT patient FROM patients")}


def recognise(database: sqlite3.Connection, marks: Marks) -> tuple[int, list[int]]:
    """Notes down a patient, inside a transaction.

    Returns:
        The patient's number, new where no photo is known; and the numbers of those who turn out to be the same person,
        which are given up.
    """
    patient, *same = _owners(database, marks) or [_new_patient(database)]
    for other in same:
        database.execute("UPDATE marks SET patient = ? WHERE patient = ?", (patient, other))
        database.execute("DELETE FROM patients WHERE patient = ?", (other,))
    database.executemany("INSERT OR IGNORE INTO marks VALUES (?, ?)", [(mark, patient) for mark in sorted(marks)])
    return patient, same


def count_patients(database: sqlite3.Connection, patients: Sequence[Marks]) -> Counter[int]:
    """The numbers of patients who were recognised before, and how often each is among them: once, as a rule."""
    numbers: Counter[int] = Counter()
    for marks in patients:
        owners = _owners(database, marks)
        assert len(owners) == 1, "patients are recognised before they are charged for"
        numbers[owners[0]] += 1
    return numbers


def _owners(database: sqlite3.Connection, marks: Marks) -> list[int]:
    """Who has a photo with one of these marks, the longest-known first."""
    found = [database.execute("SELECT patient FROM marks WHERE mark = ?", (mark,)).fetchone() for mark in marks]
    return sorted({patient for (patient,) in filter(None, found)})


def _new_patient(database: sqlite3.Connection) -> int:
    number = database.execute("INSERT INTO patients DEFAULT VALUES").lastrowid
    assert number is not None, "an insertion has a number"
    return number


def _mark(photo_CHW: Tensor, key: bytes) -> bytes:
    pixels = photo_CHW.cpu().contiguous().numpy().tobytes()
    return hmac.new(key, pixels, hashlib.sha256).digest()[:_MARK_BYTES]
