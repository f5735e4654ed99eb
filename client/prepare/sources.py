"""Which photos are there, and of whom? Read from a folder per class, or from a CSV manifest."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from bioface_core.errors import PhotoError

# What operating systems leave behind; names that start with a dot are passed over as well.
_LEFT_BEHIND = frozenset({"thumbs.db", "desktop.ini", "__macosx", "$recycle.bin", "@eadir"})


@dataclass(frozen=True)
class Entry:
    """One file that is said to be a photo.

    Attributes:
        path: where it is.
        name: its path from the source, for reports.
        patient: who is on it; the same text is the same person.
        label: the class, a syndrome or a person.
        age_months: NaN if unknown.
        sex: 0 female, 1 male, -1 unknown.
        ancestry: as the hospital calls it, empty if unknown.
        heldout: whether the source holds the photo out; None leaves it to the split.
    """

    path: Path
    name: str
    patient: str
    label: str
    age_months: float = math.nan
    sex: int = -1
    ancestry: str = ""
    heldout: bool | None = None


def read_folders(source: Path) -> list[Entry]:
    """The files of a folder that holds one folder per class.

    A file directly in a class folder is a patient of its own; a folder in it is one patient, with all that lies below.
    A patient is known by the class and that name: two classes may both have a folder ``01``.

    Returns:
        Every file of every class, hidden and system files left out, ordered by class, patient and name.

    Raises:
        PhotoError: no folder, no class in it, files beside the classes, or an empty class.
    """
    classes = [path for path in visible(source) if path.is_dir()]
    beside = [path for path in visible(source) if path.is_file()]
    if not classes:
        found = f"{len(beside)} files lie directly in {source}" if beside else f"{source} is empty"
        raise PhotoError(f"{found}; expected one folder per syndrome (or person) with photos in it, or a CSV manifest")
    entries = [entry for folder in classes for entry in _class_entries(source, folder)]
    return sorted(entries, key=lambda entry: (entry.label, entry.patient, entry.name))


def readable(path: Path | str) -> str:
    """A path as text that any file can hold, whatever bytes its name is made of."""
    return os.fsencode(str(path)).decode("utf-8", "replace").replace(os.sep, "/")


def _class_entries(source: Path, folder: Path) -> list[Entry]:
    entries = []
    for member in visible(folder):
        files = [member] if member.is_file() else files_below(member)
        patient = readable(member.relative_to(source))
        entries += [Entry(file, readable(file.relative_to(source)), patient, readable(folder.name)) for file in files]
    if not entries:
        raise PhotoError(f"{folder} holds no photo; expected at least two patients: add photos, or remove the folder")
    return entries


def files_below(folder: Path) -> list[Path]:
    """Every file in a folder and the folders in it, in order of the names."""
    found = []
    for member in visible(folder):
        found += files_below(member) if member.is_dir() else [member]
    return found


def visible(folder: Path) -> list[Path]:
    """What is in a folder, in order of the names.

    Raises:
        PhotoError: the folder cannot be read.
    """
    try:
        members = sorted(folder.iterdir())
    except OSError as error:
        raise PhotoError(f"{folder} cannot be read ({error.strerror}): check its permissions") from error
    return [path for path in members if not path.name.startswith(".") and path.name.lower() not in _LEFT_BEHIND]
