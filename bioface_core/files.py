"""How does a file get onto the disk whole or not at all? Temporary name, flush to the disk, rename.

Source: the order write, fsync, rename, fsync of the folder is that of POSIX.1 ``rename`` and Linux ``fsync(2)``.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces the file at ``path``; after a crash it holds the old content or the new, never a mixture.

    Args:
        path: its folder must exist.
        content: the whole content.

    Raises:
        OSError: the folder is missing or not writable, or the disk is full; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        temporary.write_bytes(content)
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_text(path: Path, content: str) -> None:
    """``write_bytes`` of UTF-8 text."""
    write_bytes(path, content.encode("utf-8"))


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder to fill; on leaving without an error it takes the place of ``folder``.

    What a killed writer left beside ``folder`` is swept away first: it may hold faces. Callers keep other writers out.

    Raises:
        OSError: the parent is not writable; ``folder`` is untouched.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = beside(folder, "part"), beside(folder, "old")
    _sweep(folder, fresh, old)
    fresh.mkdir()
    try:
        yield fresh
        for path in fresh.iterdir():
            sync(path)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    finally:
        _sweep(folder, fresh, old)
    sync(folder.parent)


def remove_folder(folder: Path) -> None:
    """Deletes a folder by way of another name: whoever comes next finds none, or a whole one."""
    doomed = beside(folder, "old")
    shutil.rmtree(doomed, ignore_errors=True)
    if folder.exists():
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def beside(folder: Path, ending: str) -> Path:
    """The hidden neighbour of ``folder`` that its writers use."""
    return folder.with_name(f".{folder.name}.{ending}")


def sync(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(folder: Path, fresh: Path, old: Path) -> None:
    """Clears the neighbours; a folder that was moved aside and never replaced comes back."""
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(fresh, ignore_errors=True)
