"""Where does a gallery lie? In one file of the hospital's that only its account may read, written whole or not at all.

A safetensors file: the embeddings, and in its header one JSON text that says whose they are and of which model.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bioface_core.errors import PhotoError
from bioface_core.expert import Expert
from bioface_core.files import sync
from bioface_core.gallery import Entry, Gallery, gallery_of
from bioface_core.private import write_secret

VERSION = 1
_HEADER, _EMBEDDINGS = "gallery", "embeddings_ND"
_TOLERANCE = 1e-3  # of a unit vector's length
_PATIENCE = 10.0  # seconds that one writer waits for another


def read_gallery(path: Path, expert: Expert) -> Gallery:
    """The gallery in a file; an empty one where there is no file yet.

    Args:
        path: the file.
        expert: the model it must belong to.

    Raises:
        PhotoError: no gallery, damaged, written by another version, or of another model.
    """
    if not path.exists():
        return Gallery.empty(expert)
    gallery = load_gallery(path)
    try:
        return gallery_of(expert, gallery)
    except PhotoError as error:
        raise PhotoError(f"{path}: {error}") from error


def load_gallery(path: Path) -> Gallery:
    """The gallery in a file, whatever its model.

    Raises:
        PhotoError: no gallery, damaged, or written by another version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header, embeddings_ND = json.loads((file.metadata() or {})[_HEADER]), file.get_tensor(_EMBEDDINGS)
        return _assemble(path, header, embeddings_ND)
    except OSError as error:
        raise PhotoError(f"{path} cannot be read ({error.strerror or error}): expected a gallery") from error
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise PhotoError(f"{path} is no gallery, or damaged: restore it, or add the photos anew") from error


def write_gallery(path: Path, gallery: Gallery) -> None:
    """Replaces the file; after a crash it holds the old gallery or the new.

    Raises:
        PhotoError: it cannot be written.
    """
    header = {"version": VERSION, "model": gallery.model, "entries": [asdict(entry) for entry in gallery.entries]}
    content = save({_EMBEDDINGS: gallery.embeddings_ND.contiguous()}, {_HEADER: json.dumps(header)})
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        write_secret(temporary, content)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise PhotoError(f"{path} cannot be written ({error.strerror}): choose another place") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def changing(path: Path, expert: Expert) -> Iterator[Gallery]:
    """Yields the gallery of a file and keeps every other writer out until the block, which may write, ends.

    Raises:
        PhotoError: another process is at it, or as ``read_gallery``.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=_PATIENCE, mode=0o600)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise PhotoError(f"{path} is being changed by another process: try again later") from error
    except OSError as error:
        raise PhotoError(f"{path} cannot be written ({error.strerror}): choose another place") from error
    try:
        yield read_gallery(path, expert)
    finally:
        lock.release()


def _assemble(path: Path, header: dict[str, Any], embeddings_ND: Tensor) -> Gallery:
    """A gallery, or ValueError where header and embeddings cannot be one."""
    if header["version"] != VERSION:
        raise PhotoError(f"{path} is a gallery of version {header['version']}, expected {VERSION}: add the photos anew")
    entries = tuple(Entry(**entry) for entry in header["entries"])
    if embeddings_ND.dtype != torch.float32 or embeddings_ND.ndim != 2 or len(embeddings_ND) != len(entries):
        raise ValueError("embeddings of another kind or number")
    if not bool(((embeddings_ND.norm(dim=1) - 1).abs() < _TOLERANCE).all()):
        raise ValueError("embeddings are not of unit length")
    return Gallery(str(header["model"]), entries, embeddings_ND)
