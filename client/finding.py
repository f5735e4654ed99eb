"""What did the doctor find, and which questions follow from which? One check after another, each with what it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Verdict:
    """What a check says.

    Attributes:
        ok: False keeps the hospital from taking part; None is worth knowing, or was not checked.
        found: what was found, in words for whoever mends it.
        advice: what to do; empty if there is nothing to do.
    """

    ok: bool | None
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Finding(Verdict):
    """A verdict with the name of what was looked at."""

    name: str = ""

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {"name": self.name} | asdict(self)


@dataclass(frozen=True)
class Check(Generic[Subject]):
    """One thing to look at.

    Attributes:
        name: of the thing; scripts may rely on it.
        look: says how it is.
        needs: names of checks without which this one has nothing to say.
    """

    name: str
    look: Callable[[Subject], Verdict]
    needs: tuple[str, ...] = ()


def fine(found: str) -> Verdict:
    """As it should be."""
    return Verdict(True, found)


def notable(found: str, advice: str = "") -> Verdict:
    """No obstacle, but worth knowing."""
    return Verdict(None, found, advice)


def fault(found: str, advice: str) -> Verdict:
    """Keeps the hospital from taking part."""
    return Verdict(False, found, advice)


def examine(checks: Iterable[Check[Subject]], subject: Subject) -> list[Finding]:
    """Looks at everything that can be looked at, in order; a check that raises is a finding, too."""
    findings: list[Finding] = []
    missing: set[str] = set()
    for check in checks:
        lacking = [name for name in check.needs if name in missing]
        verdict = notable(f"not checked: {lacking[0]} comes first") if lacking else _look(check, subject)
        if lacking or verdict.ok is False:
            missing.add(check.name)
        findings.append(Finding(verdict.ok, verdict.found, verdict.advice, check.name))
    return findings


def _look(check: Check[Subject], subject: Subject) -> Verdict:
    try:
        return check.look(subject)
    except Exception as error:  # whatever a broken machine comes up with: the doctor goes on
        return fault(f"{type(error).__name__}: {error}", "mend this first; the log may say more")
