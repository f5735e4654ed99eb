"""What is going on in a run? Read from its folder alone, while another process writes there.

A round's files appear whole, and a journal's last line counts only with its end, so that reading needs no lock. The
journal is read from where the last look ended.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bioface_core.checkpoint import RunFolder, read_study_of
from bioface_core.config import Study
from bioface_core.errors import RunError
from bioface_core.messages import Code
from bioface_core.report.build import catalogue_names, report_of
from bioface_core.report.curves import loss_curve, rate_curve
from bioface_core.report.facts import Report
from bioface_core.report.run_folder import read_run
from bioface_core.report.words import data_size, interval, percent
from server.dashboard.words import budget, headline, heard, loss_title, told

_LINES = 500  # of the journal that are shown
_LATE = (Code.LATE, Code.LOST)
_ENDINGS = ("checkpointed", "failed")
Line = dict[str, Any]


@dataclass(frozen=True)
class Hospital:
    """How a hospital stands.

    Attributes:
        name: in the roster, or as it answered.
        state: ``answered``, ``asked``, ``late``, ``refused``, ``absent``, or ``unseen`` where it was never heard of.
        code: why it was left out of the round.
        rounds: in how many its update is in the model.
        left_out: how often it was left out, over all rounds.
        last: when it last answered, ISO; None for never.
    """

    name: str
    state: str
    code: str | None
    rounds: int
    left_out: int
    last: str | None


class Watch:
    """A run that is looked at again and again.

    Args:
        folder: of the run; it need not have begun its first round.

    Raises:
        RunError: no run there.
    """

    def __init__(self, folder: Path) -> None:
        self.study = read_study_of(folder)
        self._folder = folder
        self._journal = RunFolder(folder).journal
        self._lines: list[Line] = []
        self._read_to = 0
        self._report: tuple[int, dict[str, Any]] | None = None  # of how many rounds, and what it says

    def look(self, now: float | None = None) -> dict[str, Any]:
        """Everything the page shows, as JSON.

        Args:
            now: Unix time; the clock's if None.

        Raises:
            RunError: a file of the run is damaged.
        """
        self._read_journal()
        quiet = _quiet_s(self._lines, time.time() if now is None else now)
        rounds = self._rounds()
        return {
            "study": self.study.name,
            "study_id": self.study.study_id,
            "headline": headline(self.study, self._lines, rounds["done"], quiet),
            "heard": heard(quiet),
            "loss_title": loss_title(self.study),
            "hospitals": [vars(one) for one in hospitals(self.study, self._lines)],
            "budget": budget(self.study, self._lines, max(0, rounds["done"])),
            "journal": [told(line) for line in self._lines[-_LINES:][::-1]],
            "journal_lines": len(self._lines),
            **rounds,
        }

    def _read_journal(self) -> None:
        try:
            with self._journal.open("rb") as file:
                file.seek(self._read_to)
                content = file.read()
        except FileNotFoundError:
            return
        except OSError as error:
            raise RunError(f"{self._journal} cannot be read ({error.strerror}): check the folder's rights") from error
        whole = content[: content.rfind(b"\n") + 1]
        try:
            self._lines += [dict(json.loads(line)) for line in whole.splitlines()]
        except (ValueError, TypeError) as error:
            raise RunError(f"{self._journal} is damaged: restore the file, or start a new run") from error
        self._read_to += len(whole)

    def _rounds(self) -> dict[str, Any]:
        """What the finished rounds say; computed again only when there is one more."""
        there = sum(1 for _ in self._folder.glob("round-*.json"))
        if self._report is None or self._report[0] != there:
            self._report = there, _of_rounds(report_of(read_run(self._folder), catalogue_names()))
        return self._report[1]


def hospitals(study: Study, lines: list[Line]) -> list[Hospital]:
    """How every hospital stands: those of the roster, and who else was heard of."""
    heard = [str(line["hospital"]) for line in lines if "hospital" in line]
    names = dict.fromkeys([*(member.name for member in study.roster), *heard])
    last = {str(line["hospital"]): str(line["time"]) for line in lines if line["event"] == "answered"}
    left_out = Counter(str(line["hospital"]) for line in lines if line["event"] == "leftout")
    summed = {int(line["round"]): line["answered"] for line in lines if line["event"] == "aggregated"}
    rounds = Counter(name for answered in summed.values() for name in answered)
    now = _current(lines)
    return [Hospital(name, *_state(name, now), rounds[name], left_out[name], last.get(name)) for name in names]


def _current(lines: list[Line]) -> list[Line]:
    """The lines of the latest attempt at a round."""
    begun = [number for number, line in enumerate(lines) if line["event"] == "started"]
    return lines[begun[-1] :] if begun else []


def _state(name: str, now: list[Line]) -> tuple[str, str | None]:
    """How a hospital stands in the latest attempt, and why it is left out."""
    own = [line for line in now if line.get("hospital") == name]
    if not own:
        asked = bool(now) and now[-1]["event"] not in _ENDINGS
        return ("asked" if asked else "unseen"), None
    if own[-1]["event"] == "answered":
        return "answered", None
    code = str(own[-1]["code"])
    return ("absent" if code == Code.ABSENT else "late" if code in _LATE else "refused"), code


def _quiet_s(lines: list[Line], now: float) -> float | None:
    """Seconds since the last line; None where there is none."""
    return max(0.0, now - datetime.fromisoformat(lines[-1]["time"]).timestamp()) if lines else None


def _of_rounds(report: Report) -> dict[str, Any]:
    last = report.rounds[-1] if report.rounds else None
    return {
        "planned": report.rounds_planned,
        "done": -1 if last is None else last.round,
        "top1": None if last is None else f"{percent(last.top1.value)} ({interval(last.top1)})",
        "top3": None if last is None else f"{percent(last.top3.value)} ({interval(last.top3)})",
        "patients": None if last is None else last.top1.patients,
        "seconds": None if last is None else round(last.seconds, 1),
        "down": data_size(sum(one.bytes_down for one in report.rounds)),
        "up": data_size(sum(one.bytes_up for one in report.rounds)),
        "curves": [rate_curve(report, 1), rate_curve(report, 3), loss_curve(report)],
        "rounds": [
            {
                "round": one.round,
                "top1": percent(one.top1.value),
                "loss": None if one.loss is None else f"{one.loss:.3f}",
                "seconds": f"{one.seconds:.1f}",
                "answered": len(one.answered),
                "refused": one.refused,
                "up": data_size(one.bytes_up),
            }
            for one in reversed(report.rounds)
        ],
    }
