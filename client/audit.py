"""What was this hospital asked, what did it decide, and what left? A log that cannot be changed without showing it.

One JSON object per line. Each line holds its number and the SHA-256 of the line before, and is signed with the
hospital's identity. How far the log goes stands, signed too, in a small file beside it, so that a missing end shows. A
line is on the disk before the answer that it tells of may leave.

A process that is killed can leave a line that the small file does not know, or half a line. Its answer never left: the
whole line stays, the half one is cut off, and the next line says so. Who has the hospital's private key can write
another log; who has not, cannot change a letter of this one.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from filelock import FileLock, Timeout

from bioface_core.errors import HospitalError
from bioface_core.files import write_text
from bioface_core.identity import is_signed_by, public_hex, sign
from client.database import as_failure

_LINE, _HEAD = "bioface audit line", "bioface audit head"  # what a signature is for
_NOTHING = "0" * 64
_RESTORE = "restore both files from a backup; `bioface hospital audit` says what is wrong with the log"
_as_failure = partial(as_failure, "the audit log")


@dataclass(frozen=True)
class Head:
    """How far a log goes.

    Attributes:
        lines: how many there are.
        size: of them together, bytes.
        sha256: of the last one, without its line break.
        charge: the newest charge of the ledger that they tell of.
    """

    lines: int = 0
    size: int = 0
    sha256: str = _NOTHING
    charge: int = 0

    def after(self, line: bytes, charge: int) -> Head:
        """With one more line, given without its line break."""
        sha256 = hashlib.sha256(line).hexdigest()
        return Head(self.lines + 1, self.size + len(line) + 1, sha256, max(charge, self.charge))


@dataclass(frozen=True)
class Verdict:
    """What looking through a log has shown.

    Attributes:
        lines: how many are in order, from the first.
        fault: what is wrong with the next one; None if all is well.
    """

    lines: int
    fault: str | None

    def to_json(self) -> dict[str, Any]:
        """For a script."""
        return {"in_order": self.fault is None} | asdict(self)


class AuditLog:
    """The log, for the one process that writes it.

    Args:
        path: of a log that ``begin`` has begun, such as ``state/audit.jsonl``.
        identity: the hospital's.

    Raises:
        HospitalError: missing, cut off, not this hospital's, or in use.
    """

    def __init__(self, path: Path, identity: Ed25519PrivateKey) -> None:
        self._path, self._identity, self._lock = path, identity, threading.Lock()
        self._ours = _take(path)
        self._head = read_head(path, public_hex(identity))
        torn = self._mend()
        if torn:
            self.record(what="mended", torn_bytes=torn)

    @staticmethod
    def begin(path: Path, identity: Ed25519PrivateKey) -> None:
        """Makes an empty log, for a hospital that is new: a missing one is never taken for an empty one."""
        path.touch(mode=0o600, exist_ok=False)
        _write_head(path, identity, Head())

    @property
    def charge(self) -> int:
        """The newest charge of the ledger that the log tells of."""
        return self._head.charge

    def close(self) -> None:
        """Lets another process write."""
        self._ours.release()

    def record(self, charges: tuple[int, ...] = (), **facts: Any) -> None:
        """Adds a line; it is on the disk when this returns.

        Args:
            charges: numbers of the ledger's charges that the facts rest on.
            facts: JSON, nothing of which is about a patient.

        Raises:
            WireError: the disk does not take it; nothing may leave.
        """
        with self._lock, _as_failure():
            line = self._signed(facts | ({"charges": charges} if charges else {}))
            head = self._head.after(line, max(charges, default=0))
            _append(self._path, self._head.size, line + b"\n")
            _write_head(self._path, self._identity, head)
            self._head = head

    def _signed(self, facts: dict[str, Any]) -> bytes:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        line = {"is": _LINE, "number": self._head.lines + 1, "at": at, "before": self._head.sha256} | facts
        line = json.loads(json.dumps(line))  # as whoever reads it will check it
        return json.dumps(line | {"signature": sign(self._identity, line)}).encode("ascii")

    def _mend(self) -> int:
        """Takes in what a killed process has written after its last answer; how many bytes of it were half a line.

        Raises:
            HospitalError: the log does not go as far as it did.
        """
        known, rest = _split(self._path, self._head)
        if hashlib.sha256(known).hexdigest() != self._head.sha256 and self._head.lines:
            raise HospitalError(f"{self._path} was altered: its last line is another than was written; {_RESTORE}")
        *lines, torn = rest.split(b"\n")
        for line in lines:
            found = _read_line(line, self._head, public_hex(self._identity))
            if isinstance(found, str):
                raise HospitalError(f"{self._path} was altered: {found}; {_RESTORE}")
            self._head = found
            _write_head(self._path, self._identity, self._head)
        return len(torn)


def verify(path: Path, identity_key: str) -> Verdict:
    """Looks through a log, while it is written or not.

    Args:
        path: of the log.
        identity_key: the hospital's, as it stands in the roster.

    Returns:
        What is wrong with the first line that is altered, missing or not in its place.
    """
    try:
        end = read_head(path, identity_key)
        lines = path.read_bytes().split(b"\n")[:-1]  # after the last line break there is nothing, or half a line
    except HospitalError as error:
        return Verdict(0, str(error))
    head = Head()
    for line in lines:
        found = _read_line(line, head, identity_key)
        if isinstance(found, str):
            return Verdict(head.lines, found)
        head = found
        if head.lines == end.lines and head.sha256 != end.sha256:
            return Verdict(head.lines - 1, f"line {head.lines} is another than was written")
    if head.lines < end.lines:
        return Verdict(head.lines, f"lines {head.lines + 1} to {end.lines} are cut off")
    return Verdict(head.lines, None)


def read_head(path: Path, identity_key: str) -> Head:
    """How far the log at ``path`` goes.

    Raises:
        HospitalError: the log or the file beside it is missing or altered.
    """
    beside = head_path(path)
    for file in (path, beside):
        if not file.is_file():
            raise HospitalError(f"{file} is missing, expected the audit log of this hospital: {_RESTORE}")
    try:
        content = json.loads(beside.read_bytes())
        signature = content.pop("signature")
        genuine = is_signed_by(identity_key, content, signature) and content.pop("is") == _HEAD
        head = Head(**content)
    except (ValueError, TypeError, KeyError, AttributeError):
        genuine = False
    if not genuine:
        raise HospitalError(f"{beside} is damaged or not signed by this hospital: {_RESTORE}")
    return head


def head_path(path: Path) -> Path:
    """The small file that says how far the log at ``path`` goes."""
    return path.with_suffix(".head")


def _take(path: Path) -> FileLock:
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise HospitalError(f"{path} is in use by another site process: stop it first") from None
    return lock


def _split(path: Path, head: Head) -> tuple[bytes, bytes]:
    """The last line that the head knows, without its line break, and what comes after.

    Raises:
        HospitalError: there is less than the head knows.
    """
    content = path.read_bytes()
    if len(content) < head.size:
        raise HospitalError(f"{path} is cut off: it had {head.lines} lines; {_RESTORE}")
    return content[: head.size].rstrip(b"\n").rpartition(b"\n")[2], content[head.size :]


def _read_line(line: bytes, head: Head, identity_key: str) -> Head | str:
    """How far the log goes with one more line, or what is wrong with it."""
    number = head.lines + 1
    try:
        content = dict(json.loads(line))
        signature = str(content.pop("signature"))
        genuine = content["is"] == _LINE and is_signed_by(identity_key, content, signature)
        found, before, charges = int(content["number"]), content["before"], content.get("charges", [])
    except (ValueError, TypeError, KeyError):
        return f"line {number} was altered: it is no line of this log"
    if not genuine:
        return f"line {number} was altered: its signature does not fit"
    if found != number:
        return f"line {number} is missing or not in its place: line {found} stands there"
    if before != head.sha256:
        return f"line {number} follows another line than the one before it"
    return head.after(line, max(charges, default=0))


def _append(path: Path, size: int, content: bytes) -> None:
    """Writes after the first ``size`` bytes; what a failed attempt has left there goes."""
    with path.open("r+b") as file:
        file.truncate(size)
        file.seek(size)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _write_head(path: Path, identity: Ed25519PrivateKey, head: Head) -> None:
    content = {"is": _HEAD} | asdict(head)
    write_text(head_path(path), json.dumps(content | {"signature": sign(identity, content)}))
