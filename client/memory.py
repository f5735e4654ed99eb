"""What has a hospital already answered? Kept on its disk, so that no question costs its patients twice.

A ticket is answered once. The same question under another ticket (the lab's server or the hospital's node was
restarted) is answered with the stored reply: nothing is trained again, and no second privacy budget is spent. A reply
is on the disk before it may leave: after kill -9 at any moment it is either stored, and is sent again, or it never
left, and is computed anew.

The tickets are in a database that one process has for itself (client/database.py). The last reply of each phase is a
safetensors file beside it that says which question it answers; the next one takes its place. As a blob in the database,
a reply of 97 MB took five times as long to store.

Of every masked sum that the hospital helped to open it remembers whose vectors were in it. It never helps to open
another one of the same answers: two sums that differ in one hospital are that hospital's part.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bioface_core.evaluate import Counts
from bioface_core.files import write_bytes
from bioface_core.messages import Code, Evaluation, Phase, Reply, Request, Ticket, Update, demand
from bioface_core.precision import coded_from
from bioface_core.secure.session import require
from client.database import Kind, as_failure, open_database

_log = logging.getLogger("bioface.memory")

_TABLE = """
CREATE TABLE IF NOT EXISTS answered (
    study TEXT, run TEXT, round INTEGER, attempt INTEGER, phase TEXT, ask INTEGER,
    PRIMARY KEY (study, run, round, attempt, phase, ask)
) WITHOUT ROWID
"""
_OPENED = """
CREATE TABLE IF NOT EXISTS opened (parts TEXT PRIMARY KEY, survivors TEXT NOT NULL) WITHOUT ROWID
"""
_THIS = "study = ? AND run = ? AND round = ? AND attempt = ? AND phase = ? AND ask = ?"
_BEGUN = 0  # in place of an ask, which is 1 or more: a masked sum was begun under this ticket
_KIND = Kind(
    content="the memory of the answers this hospital has given",
    tables=(_TABLE, _OPENED),
    version=1,
    remedy="restore it from a backup, or move it away and ask the lab to begin a new run (answers given before could "
    "be asked for again)",
)
_as_failure = partial(as_failure, "the memory of answers")


class Memory:
    """The tickets a hospital has answered, and the last reply of each phase.

    Args:
        path: the database, such as ``state/memory.sqlite``; made if there is none. Its folder must exist.

    Raises:
        HospitalError: damaged, of another version, in use by another process, or not writable.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._database = open_database(path, _KIND)
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

    def begin(self, ticket: Ticket) -> None:
        """Puts it on the disk that a masked sum was begun, so that a restarted process does not begin it a second time.

        Raises:
            SecureError: it was begun before.
            WireError: the disk does not take it.
        """
        begun = replace(ticket, ask=_BEGUN)
        with self._lock:
            require(not self._was_answered(begun), "this sum was begun before: its keys are gone")
            self._note(begun)

    def check_opened(self, parts: str, survivors: Sequence[str]) -> None:
        """Refuses another list of survivors than that of the sum which was opened of the same parts.

        Args:
            parts: names what the hospitals put into the sum, each the same whenever it is asked again.
            survivors: who is in it.

        Raises:
            SecureError: it is another.
            WireError: the disk cannot be read.
        """
        found = self._opened(parts)
        require(found in (None, json.dumps(survivors)), "a sum of other hospitals was opened of these answers before")

    def note_opened(self, parts: str, survivors: Sequence[str]) -> None:
        """Puts it on the disk whose sum is opened; nothing may be revealed before this returns.

        Raises:
            SecureError: a sum of others was opened of the same parts.
            WireError: the disk does not take it.
        """
        with self._lock:
            self.check_opened(parts, survivors)
            self._note_opened(parts, json.dumps(survivors))

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

    @_as_failure()
    def _opened(self, parts: str) -> str | None:
        found = self._database.execute("SELECT survivors FROM opened WHERE parts = ?", (parts,)).fetchone()
        return None if found is None else str(found[0])

    @_as_failure()
    def _note_opened(self, parts: str, survivors: str) -> None:
        self._database.execute("INSERT OR IGNORE INTO opened VALUES (?, ?)", (parts, survivors))

    def _reply_path(self, phase: Phase) -> Path:
        return self._path.with_name(f"{self._path.stem}-{phase.value}.safetensors")


def _columns(ticket: Ticket) -> tuple[str | int, ...]:
    return ticket.study_id, ticket.run_id, ticket.round, ticket.attempt, ticket.phase.value, ticket.ask


def _question(request: Request) -> dict[str, str]:
    """What makes two requests the same question: all but attempt and ask."""
    ticket = request.ticket
    round_ = str(ticket.round)
    return {"study": ticket.study_id, "run": ticket.run_id, "round": round_, "vector": request.vector_sha256}


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
        return {"hospital": reply.hospital, "classes": reply.counts.classes}, {"cells": reply.counts.cells}
    scalars = {"hospital": reply.hospital, "schema": reply.schema, "weight": reply.weight, "loss": reply.loss}
    tensors = {"class_weights_K": reply.class_weights_K}
    if reply.coded is None:
        return scalars, tensors | {"delta": reply.delta}
    coded = {"bits": reply.coded.bits, "size": len(reply.delta)}
    return scalars | coded, tensors | {"coded": torch.from_numpy(reply.coded.content().copy())}


def _unpack(ticket: Ticket, scalars: dict[str, Any], tensors: dict[str, Any]) -> Reply:
    """What ``_pack`` took apart, as the answer to a ticket."""
    if ticket.phase is Phase.TRAIN:
        if "coded" in tensors:
            coded = coded_from(tensors.pop("coded").numpy(), scalars.pop("size"), scalars.pop("bits"))
            tensors |= {"delta": coded.vector, "coded": coded}
        return Update(ticket=ticket, **scalars, **tensors)
    return Evaluation(ticket, scalars["hospital"], Counts.from_cells(tensors["cells"], scalars["classes"]))
