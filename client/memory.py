"""What has a hospital already answered? Kept on its disk, so that no question costs its patients twice.

A ticket is answered once. The same question under another ticket (the lab's server or the hospital's node was
restarted) is answered with the stored reply: nothing is trained again, and no second privacy budget is spent. A reply
is on the disk before it may leave: after kill -9 at any moment it is either stored, and is sent again, or it never
left, and is computed anew.

The tickets are in an SQLite database (write-ahead log, flushed at every commit, one process at a time). The last reply
of each phase is a safetensors file beside it that says which question it answers; the next one takes its place. As a
blob in the database, a reply of 97 MB took five times as long to store.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bioface_core.errors import HospitalError, WireError
from bioface_core.evaluate import Counts
from bioface_core.files import write_bytes
from bioface_core.messages import Code, Evaluation, Phase, Reply, Request, Ticket, Update, demand

_log = logging.getLogger("bioface.memory")

_VERSION = 1
_PATIENCE_S = 5.0  # a killed predecessor may take a moment to be gone
_OWN_IT = "make room on the disk, and let the hospital's user own the folder"
_TABLE = """
CREATE TABLE IF NOT EXISTS answered (
    study TEXT, run TEXT, round INTEGER, attempt INTEGER, phase TEXT, ask INTEGER,
    PRIMARY KEY (study, run, round, attempt, phase, ask)
) WITHOUT ROWID
"""
_THIS = "study = ? AND run = ? AND round = ? AND attempt = ? AND phase = ? AND ask = ?"


@contextmanager
def _as_failure() -> Iterator[None]:
    """Turns a disk that does not take what it should into the one word that may leave.

    Raises:
        WireError: in its place.
    """
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise WireError(Code.FAILED, f"the memory of answers cannot be written ({error}): {_OWN_IT}") from error


class Memory:
    """The tickets a hospital has answered, and the last reply of each phase.

    Args:
        path: the database, such as ``state/memory.sqlite``; made if there is none. Its folder must exist.

    Raises:
        HospitalError: damaged, of another version, in use by another process, or not writable.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._database = _open(path)
        for torn in path.parent.glob(f".{path.stem}-*.part"):  # a killed process was writing it
            torn.unlink()

    def once(self, request: Request, compute: Callable[[], Reply]) -> Reply:
        """The answer to a request, computed unless it was before, and stored before it is returned.

        Args:
            request: admitted.
            compute: gives the reply in the form in which it may leave.

        Raises:
            WireError: this very ticket was answered before, or the disk does not take the answer.
        """
        with self._lock:
            demand(not self._was_answered(request.ticket), Code.REPLAYED, str(request.ticket.round))
            question, path = _question(request), self._reply_path(request.ticket.phase)
            reply = _recall(path, question, request.ticket)
            if reply is None:
                reply = compute()
                _store(path, question, reply)
            self._note(request.ticket)
            return reply

    def close(self) -> None:
        """Lets another process open the database."""
        self._database.close()

    @_as_failure()
    def _was_answered(self, ticket: Ticket) -> bool:
        return self._database.execute(f"SELECT 1 FROM answered WHERE {_THIS}", _columns(ticket)).fetchone() is not None

    @_as_failure()
    def _note(self, ticket: Ticket) -> None:
        """Puts it on the disk that the ticket was answered."""
        self._database.execute("INSERT INTO answered VALUES (?, ?, ?, ?, ?, ?)", _columns(ticket))

    def _reply_path(self, phase: Phase) -> Path:
        return self._path.with_name(f"{self._path.stem}-{phase.value}.safetensors")


def _open(path: Path) -> sqlite3.Connection:
    """The database, made if there is none, and for this process alone.

    Raises:
        HospitalError: it cannot be used.
    """
    try:
        path.touch(mode=0o600)
        database = sqlite3.connect(path, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise HospitalError(f"{path} cannot be opened ({error}): {_OWN_IT}") from error
    try:
        _prepare(database)
    except sqlite3.Error as error:
        database.close()
        raise HospitalError(f"{path} {_explain(error)}") from error
    return database


def _prepare(database: sqlite3.Connection) -> None:
    """Takes the database for this process, and makes sure that it is whole and of this version."""
    for setting in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
        database.execute(f"PRAGMA {setting}").fetchall()
    if database.execute("PRAGMA quick_check").fetchall() != [("ok",)]:
        raise sqlite3.DatabaseError("quick_check")
    if database.execute("PRAGMA user_version").fetchone()[0] not in (0, _VERSION):
        raise sqlite3.NotSupportedError("version")
    database.execute(_TABLE)
    database.execute(f"PRAGMA user_version = {_VERSION}")


def _explain(error: sqlite3.Error) -> str:
    """What is wrong with a database that cannot be opened, and what to do."""
    if isinstance(error, sqlite3.NotSupportedError):
        return f"is of another version, expected {_VERSION}: install the software that wrote it"
    if isinstance(error, sqlite3.OperationalError):
        busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
        return "is in use by another site process: stop it first" if busy else f"cannot be used ({error}): {_OWN_IT}"
    return (
        "is damaged, expected the memory of the answers this hospital has given: restore it from a backup, or move it "
        "away and ask the lab to begin a new run (answers given before could be asked for again)"
    )


def _columns(ticket: Ticket) -> tuple[str | int, ...]:
    return ticket.study_id, ticket.run_id, ticket.round, ticket.attempt, ticket.phase.value, ticket.ask


def _question(request: Request) -> dict[str, str]:
    """What makes two requests the same question: all but attempt and ask."""
    ticket = request.ticket
    vector = hashlib.sha256(request.vector.numpy().data).hexdigest()
    return {"study": ticket.study_id, "run": ticket.run_id, "round": str(ticket.round), "vector": vector}


@_as_failure()
def _store(path: Path, question: dict[str, str], reply: Reply) -> None:
    """Keeps a reply in place of the phase's last one; it is on the disk when this returns."""
    scalars, tensors = _pack(reply)
    write_bytes(path, save(tensors, question | {"scalars": json.dumps(scalars)}))


def _recall(path: Path, question: dict[str, str], ticket: Ticket) -> Reply | None:
    """The stored reply, under a new ticket, if it answers the same question."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            stored, names = dict(file.metadata() or {}), list(file.keys())
            scalars = json.loads(stored.pop("scalars", "{}"))
            if stored != question:
                return None
            return _unpack(ticket, scalars, {name: file.get_tensor(name).clone() for name in names})
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        _log.warning("%s is damaged (%s): the answer is computed anew", path, error)
        return None


def _pack(reply: Reply) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A reply's scalars and tensors, without its ticket."""
    if isinstance(reply, Evaluation):
        counts = reply.counts
        return {"hospital": reply.hospital}, {"confusion": counts.confusion_KK, "ranks": counts.ranks_KK}
    scalars = {"hospital": reply.hospital, "schema": reply.schema, "weight": reply.weight, "loss": reply.loss}
    return scalars, {"delta": reply.delta, "class_weights_K": reply.class_weights_K}


def _unpack(ticket: Ticket, scalars: dict[str, Any], tensors: dict[str, Any]) -> Reply:
    """What ``_pack`` took apart, as the answer to a ticket."""
    if ticket.phase is Phase.TRAIN:
        return Update(ticket=ticket, **scalars, **tensors)
    return Evaluation(ticket, scalars["hospital"], Counts(tensors["confusion"], tensors["ranks"]))
