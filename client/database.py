"""How does a hospital keep what it must not forget? In SQLite databases: what was committed is on the disk.

Write-ahead log, flushed at every commit: after kill -9 at any moment a transaction has happened or has not. What lies
there is looked through when it is opened, and whatever is wrong is one line.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bioface_core.errors import HospitalError, WireError
from bioface_core.messages import Code

_PATIENCE_S = 5.0  # a killed predecessor may take a moment to be gone
_OWN_IT = "make room on the disk, and let the hospital's user own the folder"


@dataclass(frozen=True)
class Kind:
    """What a database holds.

    Attributes:
        content: in words, such as "the memory of answers".
        tables: statements that make its tables; each changes nothing where they are there.
        version: of the tables.
        remedy: what to do where it is damaged.
        alone: whether one process has it for itself; else each transaction stands alone.
    """

    content: str
    tables: tuple[str, ...]
    version: int
    remedy: str
    alone: bool = True


@contextmanager
def as_failure(content: str) -> Iterator[None]:
    """Turns a disk that does not take what it should into the one word that may leave.

    Args:
        content: what cannot be written.

    Raises:
        WireError: in place of the disk's error.
    """
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise WireError(Code.FAILED, f"{content} cannot be written ({error}): {_OWN_IT}") from error


def open_database(path: Path, kind: Kind, may_begin: bool = True) -> sqlite3.Connection:
    """The database at ``path``, readable by this account alone; every statement commits unless a transaction is begun.

    Args:
        path: its folder must exist.
        kind: what it holds.
        may_begin: whether an empty one is made where there is none.

    Raises:
        HospitalError: it cannot be used.
    """
    if not may_begin:
        _demand_file(path, kind)
    with _explained(path, kind):
        path.touch(mode=0o600)
        database = _connect(str(path))
        try:
            _take(database, kind)
            _check(database, kind, may_begin)
            with transaction(database):
                for table in kind.tables:
                    database.execute(table)
                database.execute(f"PRAGMA user_version = {kind.version}")
        except sqlite3.Error:
            database.close()
            raise
    return database


def copy_database(path: Path, kind: Kind) -> sqlite3.Connection:
    """A copy in memory of the database at ``path``, which is not touched, while another process may write to it.

    Raises:
        HospitalError: it cannot be used.
    """
    _demand_file(path, kind)
    # Where there is no log, nobody writes, and SQLite need not make the files that it would share with a writer.
    written = path.with_name(f"{path.name}-wal").exists()
    copy = _connect(":memory:")
    with (
        _explained(path, kind),
        closing(_connect(f"{path.absolute().as_uri()}?mode=ro{'' if written else '&immutable=1'}")) as database,
    ):
        _check(database, kind, may_begin=False)
        database.backup(copy)
    return copy


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All of it, on the disk when it is left, or none; no other process writes in between."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    finally:
        if database.in_transaction:
            database.execute("ROLLBACK")


def _demand_file(path: Path, kind: Kind) -> None:
    if not path.is_file():
        raise HospitalError(f"{path} is missing, expected {kind.content}: {kind.remedy}")


def _connect(name: str) -> sqlite3.Connection:
    return sqlite3.connect(
        name, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False, uri=name.startswith("file:")
    )


def _take(database: sqlite3.Connection, kind: Kind) -> None:
    """Has every commit flushed, and the database for this process if it shall be alone."""
    locking = "EXCLUSIVE" if kind.alone else "NORMAL"
    for setting in (f"locking_mode = {locking}", "journal_mode = WAL", "synchronous = FULL"):
        database.execute(f"PRAGMA {setting}").fetchall()


def _check(database: sqlite3.Connection, kind: Kind, may_begin: bool) -> None:
    """Makes sure that the database is whole and of this version.

    Raises:
        sqlite3.Error: it is not.
    """
    if database.execute("PRAGMA quick_check").fetchall() != [("ok",)]:
        raise sqlite3.DatabaseError("quick_check")
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version == 0 and not may_begin:
        raise sqlite3.DatabaseError("empty")  # to SQLite, a file of no bytes is a database
    if version not in (0, kind.version):
        raise sqlite3.NotSupportedError("version")


@contextmanager
def _explained(path: Path, kind: Kind) -> Iterator[None]:
    """Turns what is wrong with a database into one line.

    Raises:
        HospitalError: in place of SQLite's errors, and the disk's.
    """
    try:
        yield
    except OSError as error:
        raise HospitalError(f"{path} cannot be opened ({error}): {_OWN_IT}") from error
    except sqlite3.Error as error:
        raise HospitalError(f"{path} {_explain(error, kind)}") from error


def _explain(error: sqlite3.Error, kind: Kind) -> str:
    """What is wrong with a database that cannot be opened, and what to do."""
    if isinstance(error, sqlite3.NotSupportedError):
        return f"is of another version, expected {kind.version}: install the software that wrote it"
    if isinstance(error, sqlite3.OperationalError):
        busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
        return "is in use by another site process: stop it first" if busy else f"cannot be used ({error}): {_OWN_IT}"
    return f"is damaged, expected {kind.content}: {kind.remedy}"
