"""What stands in a CSV file? Rows by column name.

Spreadsheets write it with commas, semicolons or tabs, with or without a byte order mark: all are read.
"""

from __future__ import annotations

import csv
import difflib
from pathlib import Path

from bioface_core.errors import PhotoError

Row = dict[str, str]


def read_table(path: Path, required: tuple[str, ...], optional: tuple[str, ...]) -> list[tuple[int, Row]]:
    """The rows that are not empty, each with its line.

    Args:
        path: a CSV file in UTF-8.
        required: columns that must be there.
        optional: columns that may be; one that is spelt nearly so is refused, others are passed over.

    Raises:
        PhotoError: not a CSV file, or a column is missing or misspelt.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=header.count)
            reader = csv.DictReader(file, delimiter=delimiter, skipinitialspace=True, restval="")
            _check_columns(path, [name.strip() for name in reader.fieldnames or []], required, optional)
            rows = [(reader.line_num, _tidy(row)) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise PhotoError(f"{path} is no CSV file in UTF-8; expected a folder of photos or a CSV manifest") from error
    except OSError as error:
        raise PhotoError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
    return [(line, row) for line, row in rows if any(row.values())]


def _tidy(row: dict[str, str]) -> Row:
    """Without blanks around names and values, and without cells beyond the last column."""
    return {name.strip(): (value or "").strip() for name, value in row.items() if isinstance(name, str)}


def _check_columns(path: Path, names: list[str], required: tuple[str, ...], optional: tuple[str, ...]) -> None:
    """Refuses a header without a required column, or with an optional one misspelt."""
    for wanted in required:
        if wanted not in names:
            nearest = _nearest(wanted, [name for name in names if name not in required])
            hint = f"rename {nearest}" if nearest else "add it"
            raise PhotoError(f"{path} has no column {wanted} (it has {', '.join(names) or 'none'}): {hint}")
    for name in names:
        meant = _nearest(name, [wanted for wanted in optional if wanted not in names])
        if name not in required + optional and meant:
            raise PhotoError(f"{path}: column {name} is not known; did you mean {meant}? Rename or remove it")


def _nearest(name: str, candidates: list[str]) -> str | None:
    close = difflib.get_close_matches(name.lower(), [candidate.lower() for candidate in candidates], n=1, cutoff=0.7)
    return next((candidate for candidate in candidates if close and candidate.lower() == close[0]), None)
