"""Which patients are asked about? Photos as they were named: files, folders, or CSV files with ``photo[,patient]``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bioface_core.errors import PhotoError
from client.prepare.sources import files_below, readable, visible
from client.prepare.table import read_table

_TABLES = {".csv", ".tsv"}


@dataclass(frozen=True)
class Case:
    """A patient to be asked about.

    Attributes:
        name: the photo, the folder, or the patient's name in a CSV file; for the screen of whoever asked.
        photos: of this patient, at least one.
    """

    name: str
    photos: tuple[Path, ...]


def cases_of(sources: Iterable[Path], together: bool = False) -> list[Case]:
    """The patients that are meant.

    Args:
        sources: files are a patient each; in a folder, so is each file, and each folder in it is one patient with all
            that lies below; a CSV file has one row per photo, and rows with the same ``patient`` are one patient.
        together: everything that was named is of one patient.

    Raises:
        PhotoError: something is not there or holds no photo, or a CSV file cannot be read.
    """
    cases = [case for source in sources for case in _cases(source)]
    if not together or len(cases) < 2:
        return cases
    photos = tuple(photo for case in cases for photo in case.photos)
    return [Case(f"{cases[0].name} and {len(photos) - 1} more", photos)]


def _cases(source: Path) -> list[Case]:
    if source.is_dir():
        return _folder(source)
    if not source.exists():
        raise PhotoError(
            f"{source} does not exist; expected a photo, a folder of photos, or a CSV file that lists some"
        )
    return _table(source) if source.suffix.lower() in _TABLES else [Case(readable(source), (source,))]


def _folder(folder: Path) -> list[Case]:
    members = ((member, [member] if member.is_file() else files_below(member)) for member in visible(folder))
    cases = [Case(readable(member.relative_to(folder)), tuple(files)) for member, files in members if files]
    if not cases:
        raise PhotoError(f"{folder} holds no photo: name a folder with photos in it")
    return cases


def _table(path: Path) -> list[Case]:
    photos_of: dict[str, list[Path]] = {}
    for name, photo in _rows(path):
        photos_of.setdefault(name, []).append(photo)
    if not photos_of:
        raise PhotoError(f"{path} lists no photo; expected one row per photo below the header photo,patient")
    return [Case(name, tuple(photos)) for name, photos in photos_of.items()]


def _rows(path: Path) -> Iterator[tuple[str, Path]]:
    """(patient, photo) of every row; without a patient, the photo is one of its own."""
    for line, row in read_table(path, ("photo",), ("patient",)):
        photo = path.parent / row["photo"]
        if not photo.is_file():
            place = f"{path}, line {line}"
            raise PhotoError(f"{place}: there is no photo {row['photo']!r}; paths are relative to {path.parent}")
        yield row.get("patient") or readable(row["photo"]), photo
