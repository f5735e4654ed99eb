"""What does a download of the GestaltMatcher Database hold? Its folders and lists, read as its own protocol reads them.

The database is given to medical institutions on request (https://db.gestaltmatcher.org). As it is unpacked:

    gmdb_images/<image_id>.jpg
    gmdb_metadata/
      gmdb_frequent_gallery_images_<version>.csv   image_id,subject,label
      gmdb_frequent_test_images_<version>.csv      image_id,subject,label
      gmdb_rare_gallery_images_<version>.csv       image_id,subject,label,split
      gmdb_rare_test_images_<version>.csv          image_id,subject,label,split
      gmdb_syndromes_<version>.tsv                 syndrome_id,syndrome_name
      image_metadata_<version>.tsv                 image_id,gender,age_year,age_month,ethnicity_category

Where this is documented: the folders in the README of igsb/GestaltMatcher-Arc; the four lists, their columns and the
numbering of splits from 0 in its ``evaluate_ensemble.py``; the syndromes in ``evaluate.py``; the photos' metadata in
``evaluate_ancestry.py`` of version 1.1.0. All columns are found by name, others are passed over. The last two files may
be missing: syndromes are then called by number, and nobody's age, sex or ancestry is known.

What is assumed, since nobody here has seen the data:

    image_id     is the name of the photo's file without its ending
    subject      is one person in all lists, and label is ``syndrome_id``
    gender       begins with f or m; anything else is unknown, as is an age below 0
    rare         syndromes are never trained on: their patients are all held out
    twice        who is in a gallery list and in a test list is held out, and who has two syndromes is two patients

A syndrome whose name is one of configs/syndromes.yaml gets its key, so that a study can ask for it; another keeps the
database's name. Photos that are listed and not there (consent can be withdrawn) appear in the report as unreadable.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from bioface_core.errors import PhotoError
from bioface_core.matching import Split
from bioface_core.syndromes import catalogue
from client.prepare.sources import Entry
from client.prepare.table import Row, read_table

IMAGES, METADATA = "gmdb_images", "gmdb_metadata"
_LISTS = ("frequent_gallery", "frequent_test", "rare_gallery", "rare_test")
_COLUMNS = ("image_id", "subject", "label")
_FACTS = ("gender", "age_year", "age_month", "ethnicity_category")
_UNKNOWN = frozenset({"", "unknown", "nan", "none"})
_ENDINGS = (".jpg", ".jpeg", ".png")
_OLDEST_MONTHS = 1500.0


@dataclass(frozen=True)
class Listed:
    """A row of one of the four lists.

    Attributes:
        image: ``image_id``.
        subject: whose photo it is.
        label: number of the syndrome.
        split: of the rare lists, from 0; 0 in the frequent ones.
    """

    image: str
    subject: str
    label: str
    split: int


def is_gmdb(source: Path) -> bool:
    """Whether a folder has the database's metadata, directly or in ``gmdb_metadata``."""
    return _lists_in(source) or _lists_in(source / METADATA)


def read_gmdb(source: Path) -> list[Entry]:
    """The photos of all four lists.

    Args:
        source: the folder with ``gmdb_images`` and ``gmdb_metadata``.

    Returns:
        One entry per photo, ordered by class, patient and name; each says whether it is held out.

    Raises:
        PhotoError: a folder, a list or a column is missing, or no photo is there.
    """
    images, metadata = source / IMAGES, _metadata(source)
    if not images.is_dir():
        raise PhotoError(f"{source} has no folder {IMAGES}; expected the database's photos there, unpacked")
    lists = read_lists(metadata)
    rows = {row.image: row for name in _LISTS for row in lists[name]}
    files = _files(images)
    if not any(image in files for image in rows):
        raise PhotoError(f"{images} has none of the {len(rows)} listed photos; expected names such as 1234.jpg")
    heldout = {row.subject for name in _LISTS if name != "frequent_gallery" for row in lists[name]}
    entries = _entries(rows.values(), images, files, heldout, _syndromes(metadata), _facts(metadata))
    return sorted(entries, key=lambda entry: (entry.label, entry.patient, entry.name))


def read_lists(metadata: Path) -> dict[str, list[Listed]]:
    """The rows of the four lists by name, such as ``rare_test``.

    Raises:
        PhotoError: a list is missing or there in two versions, or a row cannot be read.
    """
    return {name: _read_list(_one(metadata, f"gmdb_{name}_images_*.csv")) for name in _LISTS}


def read_protocol(store: Path, source: Path) -> tuple[Split, tuple[Split, ...]]:
    """Which photos of a prepared store are gallery and test, as the database's lists say.

    Args:
        store: made of ``source`` by ``bioface prepare --layout gmdb``.
        source: the database, or its metadata alone.

    Returns:
        Rows of the store: the frequent gallery and test, and the rare ones split by split. Photos that were refused are
        in none.

    Raises:
        PhotoError: the store was not made of this database, or the lists cannot be read.
    """
    lists, row_of = read_lists(_metadata(source)), _rows_of(store)
    if not any(row.image in row_of for row in lists["frequent_test"]):
        raise PhotoError(f"{store} has no photo of the lists in {source}: prepare it with --layout gmdb")
    splits = sorted({row.split for row in lists["rare_test"]})
    rare = tuple(_split(row_of, lists["rare_gallery"], lists["rare_test"], number) for number in splits)
    return _split(row_of, lists["frequent_gallery"], lists["frequent_test"], 0), rare


def _split(row_of: Mapping[str, int], gallery: list[Listed], test: list[Listed], number: int) -> Split:
    gallery_M, test_N = (
        torch.tensor([row_of[row.image] for row in rows if row.split == number and row.image in row_of]).long()
        for rows in (gallery, test)
    )
    return Split(gallery_M, test_N)


def _rows_of(store: Path) -> dict[str, int]:
    """Image -> row in the store: its report names the photos that were kept in the store's order."""
    try:
        with (store / "report.csv").open(encoding="utf-8", newline="") as file:
            kept = [row["photo"] for row in csv.DictReader(file) if row["outcome"] == "kept"]
    except (OSError, KeyError, UnicodeDecodeError) as error:
        raise PhotoError(f"{store} has no report.csv of `bioface prepare`: prepare it again") from error
    return {Path(name).stem: row for row, name in enumerate(kept)}


def _entries(
    rows: Iterable[Listed],
    images: Path,
    files: Mapping[str, Path],
    heldout: set[str],
    names: Mapping[str, str],
    facts: Mapping[str, Row],
) -> list[Entry]:
    rows = list(rows)
    labels_of: dict[str, set[str]] = {}
    for row in rows:
        labels_of.setdefault(row.subject, set()).add(row.label)
    entries = []
    for row in rows:
        path = files.get(row.image, images / f"{row.image}.jpg")
        patient = row.subject if len(labels_of[row.subject]) == 1 else f"{row.subject}/{row.label}"
        fact = facts.get(row.image, {})
        about = (_age(fact), _sex(fact), _ancestry(fact))
        name = f"{IMAGES}/{path.name}"
        entries.append(Entry(path, name, patient, _class(row.label, names), *about, row.subject in heldout))
    return entries


def _class(label: str, names: Mapping[str, str]) -> str:
    """Our key of a syndrome, or the database's name; with its number where another has the same name."""
    name = names.get(label, f"gmdb-{label}")
    ours = {syndrome.name.lower(): key for key, syndrome in catalogue().syndromes.items()}
    unique = sum(other == name for other in names.values()) < 2
    return (ours.get(name.lower(), name)) if unique else f"{name} ({label})"


def _files(images: Path) -> dict[str, Path]:
    """Image -> file."""
    return {path.stem: path for path in sorted(images.iterdir()) if path.suffix.lower() in _ENDINGS}


def _syndromes(metadata: Path) -> dict[str, str]:
    """Number -> name of each syndrome."""
    path = _found(metadata, "gmdb_syndromes_*.tsv")
    if path is None:
        return {}
    rows = read_table(path, ("syndrome_id", "syndrome_name"), ())
    return {_number(row["syndrome_id"]): " ".join(row["syndrome_name"].split()) for _, row in rows}


def _facts(metadata: Path) -> dict[str, Row]:
    """Image -> its row of the photos' metadata."""
    path = _found(metadata, "image_metadata_*.tsv")
    return {} if path is None else {_number(row["image_id"]): row for _, row in read_table(path, ("image_id",), ())}


def _read_list(path: Path) -> list[Listed]:
    with_splits = "rare" in path.name
    rows = read_table(path, (*_COLUMNS, "split") if with_splits else _COLUMNS, ())
    return [_listed(f"{path}, line {line}", row, with_splits) for line, row in rows]


def _listed(place: str, row: Row, with_splits: bool) -> Listed:
    empty = [name for name in _COLUMNS if not row[name]]
    if empty:
        raise PhotoError(f"{place}: {empty[0]} is empty; expected a value in every row")
    split = _number(row["split"]) if with_splits else "0"
    if not split.isdigit():
        raise PhotoError(f"{place}: split is {split!r}; expected a number from 0 on")
    image, subject, label = (_number(row[name]) for name in _COLUMNS)
    return Listed(image, subject, label, int(split))


def _number(text: str) -> str:
    """A whole number as text: some programs write 12 as 12.0 where a column has gaps."""
    return re.sub(r"^(\d+)\.0+$", r"\1", text)


def _metadata(source: Path) -> Path:
    folder = source / METADATA if (source / METADATA).is_dir() else source
    if not _lists_in(folder):
        raise PhotoError(f"{source} has no {METADATA} with gmdb_frequent_gallery_images_*.csv: name the database")
    return folder


def _lists_in(folder: Path) -> bool:
    return folder.is_dir() and any(folder.glob("gmdb_frequent_gallery_images_*.csv"))


def _one(folder: Path, pattern: str) -> Path:
    """The one file of a name, which must be there."""
    found = _found(folder, pattern)
    if found is None:
        raise PhotoError(f"{folder} has no {pattern}: download the database's metadata again")
    return found


def _found(folder: Path, pattern: str) -> Path | None:
    """The one file of a name, if there is any."""
    found = sorted(folder.glob(pattern))
    if len(found) > 1:
        raise PhotoError(f"{folder} has {found[0].name} and {found[1].name}: keep the files of one version")
    return found[0] if found else None


def _age(fact: Row) -> float:
    """Months, NaN if unknown."""
    parts = [_float(fact.get(name, "")) for name in ("age_year", "age_month")]
    if all(math.isnan(part) for part in parts):
        return math.nan
    years, months = (0.0 if math.isnan(part) else part for part in parts)
    return 12 * years + months if 0 <= 12 * years + months <= _OLDEST_MONTHS else math.nan


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _sex(fact: Row) -> int:
    """0 female, 1 male, -1 unknown."""
    return {"f": 0, "m": 1}.get(fact.get("gender", "")[:1].lower(), -1)


def _ancestry(fact: Row) -> str:
    text = fact.get("ethnicity_category", "")
    return "" if text.lower() in _UNKNOWN else text
