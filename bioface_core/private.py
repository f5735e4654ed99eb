"""What may nobody but this account read? Keys and secrets, in files written once and never over, and their folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bioface_core.errors import UserError
from bioface_core.files import replace_folder, sync

_OTHERS = 0o077  # what group and others may do


def refuse_occupied(folder: Path, error: type[UserError]) -> None:
    """Raises ``error`` where ``new_private_folder`` would find something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise error(f"{folder} is not empty: choose a new folder")
    if folder.resolve() == Path.cwd():
        raise error(f"{folder} is the folder you are in: name a new one")


@contextmanager
def new_private_folder(folder: Path, error: type[UserError]) -> Iterator[Path]:
    """Yields a folder that only this account may enter; on leaving without an error it takes the name ``folder``.

    Args:
        folder: new, or empty.
        error: raised where something is there, or nothing can be made.
    """
    refuse_occupied(folder, error)
    try:
        with replace_folder(folder.resolve()) as fresh:
            fresh.chmod(0o700)
            yield fresh
    except OSError as wrong:
        raise error(f"{folder} cannot be made ({wrong.strerror}): choose another place") from wrong


def write_secret(path: Path, content: bytes) -> None:
    """Writes what only this account may read, into a folder that only it may enter; never over something.

    Raises:
        FileExistsError: something is there.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)


def read_secret(path: Path, error: type[UserError]) -> bytes:
    """What ``write_secret`` wrote.

    Args:
        path: the file.
        error: raised where it is missing or open to others.
    """
    try:
        content, mode = path.read_bytes(), path.stat().st_mode
    except OSError as wrong:
        raise error(f"{path} cannot be read ({wrong.strerror}): restore it from a backup") from wrong
    if mode & _OTHERS:
        raise error(f"{path} can be read by others: `chmod 600 {path}`, and make new keys if others may have read it")
    return content
