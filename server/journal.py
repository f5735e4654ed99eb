"""What has happened in a run? One line of JSON per event, on the disk before the event takes effect.

A line that a crash cut short is removed when the journal is opened again; anything else that cannot be read stops the
run, for a journal is either right or worthless.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bioface_core.errors import RunError
from bioface_core.files import sync


@dataclass(frozen=True)
class Opened:
    """A server began to serve this run, for the first time or again.

    Attributes:
        study: the study's id.
        run: names the run in messages; the first line decides.
        after: the last finished round, -1 for none.
    """

    study: str
    run: str
    after: int


@dataclass(frozen=True)
class Started:
    """A round was begun with these nodes' hospitals."""

    round: int
    attempt: int
    hospitals: tuple[str, ...]


@dataclass(frozen=True)
class Answered:
    """A hospital's reply is good."""

    round: int
    attempt: int
    phase: str
    hospital: str


@dataclass(frozen=True)
class LeftOut:
    """A hospital is left out of the round; ``code`` is one of ``bioface_core.messages.Code``."""

    round: int
    attempt: int
    phase: str
    hospital: str
    code: str


@dataclass(frozen=True)
class Dropped:
    """A message that does not count: ``late``, ``duplicate``, or ``foreign`` (of another node than was asked)."""

    round: int
    attempt: int
    phase: str
    reason: str


@dataclass(frozen=True)
class Aggregated:
    """The replies that make the next model are complete."""

    round: int
    attempt: int
    answered: tuple[str, ...]
    weight: int


@dataclass(frozen=True)
class Survived:
    """The masked vectors of these hospitals are in the sum that they are about to be asked to open.

    Whatever becomes of this attempt, no other sum of this round and phase may be opened: two sums that differ in one
    hospital are that hospital's update.
    """

    round: int
    attempt: int
    phase: str
    hospitals: tuple[str, ...]


@dataclass(frozen=True)
class Checkpointed:
    """The round is done; its file, about to be written, has this SHA-256."""

    round: int
    attempt: int
    sha256: str


@dataclass(frozen=True)
class Failed:
    """The round could not be completed."""

    round: int
    attempt: int
    phase: str
    reason: str


Entry = Opened | Started | Answered | LeftOut | Dropped | Survived | Aggregated | Checkpointed | Failed

# A reply takes effect when the round is aggregated: its line may wait for that line's fsync.
_MAY_WAIT = (Answered, LeftOut, Dropped)


class Journal:
    """``journal.jsonl`` of one run, held by one process.

    Args:
        path: the file; made if it is not there.

    Raises:
        RunError: it is damaged, or cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self._entries = self._read()
            sync(path.parent)
        except OSError as error:
            raise RunError(f"{path} cannot be opened ({error.strerror}): check the folder's rights") from error

    def close(self) -> None:
        """Lets go of the file; nothing can be appended after it."""
        os.close(self._descriptor)

    def append(self, entry: Entry) -> None:
        """Adds a line.

        Raises:
            RunError: the disk does not take it.
        """
        line = {"event": type(entry).__name__.lower(), "time": datetime.now(UTC).isoformat(), **asdict(entry)}
        try:
            _write_all(self._descriptor, (json.dumps(line) + "\n").encode())
            if not isinstance(entry, _MAY_WAIT):
                os.fsync(self._descriptor)
        except OSError as error:
            hint = "make room and start again: the run goes on from its last round"
            raise RunError(f"{self._path} cannot be written ({error.strerror}): {hint}") from error
        self._entries.append(line)

    def run_id(self) -> str | None:
        """What the run was called when it began; None in a new journal."""
        return next((str(entry["run"]) for entry in self._entries if entry["event"] == "opened"), None)

    def attempts(self, round_: int) -> int:
        """How often a round was begun."""
        return sum(entry["event"] == "started" and entry["round"] == round_ for entry in self._entries)

    def aggregations(self) -> int:
        """How many sums were taken, those of rounds that were begun again included."""
        return sum(entry["event"] == "aggregated" for entry in self._entries)

    def survivors(self, round_: int, phase: str) -> tuple[str, ...]:
        """The hospitals whose sum may have been opened in this round and phase; none if no sum was."""
        found = [entry for entry in self._entries if entry["event"] == "survived" and entry["round"] == round_]
        return next((tuple(entry["hospitals"]) for entry in found if entry["phase"] == phase), ())

    def checkpoints(self) -> dict[int, str]:
        """Round to the SHA-256 its file must have, as last announced."""
        return {entry["round"]: entry["sha256"] for entry in self._entries if entry["event"] == "checkpointed"}

    def _read(self) -> list[dict[str, Any]]:
        """Every entry; a line without its end, which only a crash leaves, is cut off."""
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self._descriptor, len(whole))
            os.fsync(self._descriptor)
        return [self._parse(line, number) for number, line in enumerate(whole.splitlines(), start=1)]

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            entry = json.loads(line)
            assert isinstance(entry["event"], str)
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise RunError(f"{self._path}, line {number} is damaged: restore the file, or start a new run") from error
        return dict(entry)


def _write_all(descriptor: int, content: bytes) -> None:
    """``os.write`` may take a part only."""
    while content:
        content = content[os.write(descriptor, content) :]
