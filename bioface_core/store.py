"""Where does a hospital keep its prepared photos? In a store: a folder of two files that is complete or absent.

``photos.safetensors`` holds the columns, ``store.json`` says what they mean. The folder is written under a temporary
name and renamed, so an interrupted writer leaves no half store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bioface_core.errors import PhotoError
from bioface_core.files import replace_folder, write_text
from bioface_core.photos import Demographics, PhotoSet

STORE_VERSION = 1
_HEADER, _COLUMNS = "store.json", "photos.safetensors"


@dataclass(frozen=True)
class Store:
    """One hospital's prepared photos.

    Attributes:
        classes: what ``labels_N`` counts, in order.
        photos: every photo, training and held out.
        heldout_N: bool, True for photos of patients who are never trained on.
        demographics: one row per photo.
        ancestries: what ``ancestry_N`` counts, in order.
    """

    classes: tuple[str, ...]
    photos: PhotoSet
    heldout_N: Tensor
    demographics: Demographics
    ancestries: tuple[str, ...] = ()

    def train(self) -> PhotoSet:
        """The photos to learn from."""
        return self.photos.take(~self.heldout_N)

    def heldout(self) -> PhotoSet:
        """The photos of held-out patients."""
        return self.photos.take(self.heldout_N)

    def take(self, chosen_N: Tensor) -> Store:
        """The store with some of its photos.

        Args:
            chosen_N: bool, True for the photos to keep.
        """
        photos, demographics = self.photos.take(chosen_N), self.demographics.take(chosen_N)
        return Store(self.classes, photos, self.heldout_N[chosen_N], demographics, self.ancestries)


def as_studied(store: Store, syndromes: tuple[str, ...]) -> Store:
    """The store's photos of a study's syndromes, labels counting the study's order."""
    index_K = torch.tensor([syndromes.index(name) if name in syndromes else -1 for name in store.classes])
    kept = store.take(index_K[store.photos.labels_N] >= 0)
    photos = PhotoSet(kept.photos.photos_NCHW, index_K[kept.photos.labels_N], kept.photos.patients_N)
    return replace(kept, classes=syndromes, photos=photos)


def write_store(folder: Path, store: Store, notes: Mapping[str, str] | None = None) -> None:
    """Writes a store where there was none, or replaces the one that was there.

    Args:
        folder: the store's folder; its parent must be writable.
        store: what to write.
        notes: text files to lay beside the columns, name -> content; nobody but people reads them.

    Raises:
        PhotoError: the folder exists and is not a store, or cannot be written.
    """
    check_free(folder)
    with replace_folder(folder) as fresh:
        save_file(_columns(store), fresh / _COLUMNS)
        for name, content in (notes or {}).items():
            write_text(fresh / name, content)
        write_text(fresh / _HEADER, json.dumps(_header(store), indent=1, ensure_ascii=False))


def check_free(folder: Path) -> None:
    """Makes sure that a store may be written to ``folder``.

    Raises:
        PhotoError: something is there that is not a store.
    """
    if folder.exists() and not folder.is_dir():
        raise PhotoError(f"{folder} is a file; a store is a folder: choose another --out")
    if folder.exists() and any(folder.iterdir()) and not (folder / _HEADER).exists():
        raise PhotoError(f"{folder} exists and is not a store; expected a new or empty folder: choose another --out")


def read_store(folder: Path) -> Store:
    """Reads a store into memory.

    Raises:
        PhotoError: no store there, written by another version, or damaged.
    """
    header = _read_header(folder)
    try:
        columns = load_file(folder / _COLUMNS)
        return _assemble(header, columns)
    except (OSError, SafetensorError, KeyError, AssertionError) as error:
        raise PhotoError(f"{folder} is damaged ({type(error).__name__} in {_COLUMNS}): prepare it again") from error


def photos_in(folder: Path) -> int:
    """How many photos a store has, without reading them.

    Raises:
        PhotoError: no store there, or written by another version.
    """
    return int(_read_header(folder)["photos"])


def _columns(store: Store) -> dict[str, Tensor]:
    columns = {
        "photos_NCHW": store.photos.photos_NCHW,
        "labels_N": store.photos.labels_N,
        "patients_N": store.photos.patients_N,
        "heldout_N": store.heldout_N,
        "age_months_N": store.demographics.age_months_N,
        "sex_N": store.demographics.sex_N,
        "ancestry_N": store.demographics.ancestry_N,
    }
    return {name: column.cpu().contiguous() for name, column in columns.items()}


def _header(store: Store) -> dict[str, Any]:
    return {
        "version": STORE_VERSION,
        "classes": list(store.classes),
        "ancestries": list(store.ancestries),
        "photos": len(store.photos),
        "patients": store.photos.patients(),
    }


def _read_header(folder: Path) -> dict[str, Any]:
    path = folder / _HEADER
    if not path.is_file():
        raise PhotoError(f"{folder} is not a store (no {_HEADER}): make one with `bioface prepare PHOTOS --out STORE`")
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        version = header["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PhotoError(f"{path} cannot be read as a store's header: prepare the store again") from error
    if version != STORE_VERSION:
        raise PhotoError(f"{folder} is a store of version {version}, expected {STORE_VERSION}: prepare it again")
    return dict(header)


def _assemble(header: dict[str, Any], columns: dict[str, Tensor]) -> Store:
    store = Store(
        tuple(header["classes"]),
        PhotoSet(columns["photos_NCHW"], columns["labels_N"], columns["patients_N"]),
        columns["heldout_N"],
        Demographics(columns["age_months_N"], columns["sex_N"], columns["ancestry_N"]),
        tuple(header["ancestries"]),
    )
    assert len(store.photos) == header["photos"] == len(store.heldout_N), "rows are missing"
    return store
