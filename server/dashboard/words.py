"""How is a line of the journal put into words, and where a run stands?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from bioface_core.config import Study
from bioface_core.report.words import plural
from server.central import CentralPlan

Line = dict[str, Any]
_ALARMING = ("leftout", "failed", "dropped")


def headline(study: Study, lines: list[Line], done: int, quiet_s: float | None) -> str:
    """Where the run stands, in one sentence."""
    planned = study.federation.rounds
    if done >= planned:
        return f"Finished: {plural(planned, 'round')}"
    if not lines:
        return "Not begun"
    last = lines[-1]
    if last["event"] == "failed":
        return f"Round {last['round']} failed: {last['reason']}"
    at = f"after round {done} of {planned}" if done >= 0 else "before the first round"
    if quiet_s is not None and quiet_s > study.federation.deadline_s:
        return f"Nothing heard for {_ago(quiet_s)}, {at}"
    begun = next((line for line in reversed(lines) if line["event"] == "started"), None)
    if begun is None or begun["round"] == 0:
        return "Measuring the model before training"
    return f"Round {begun['round']} of {planned}" + (f", attempt {begun['attempt']}" if begun["attempt"] > 1 else "")


def loss_title(study: Study) -> str:
    """What the loss's chart is called; while the margin grows, so may the loss, and nothing is amiss."""
    ramp, rounds = study.loss.margin_ramp, study.federation.rounds
    if study.loss.mode == "ce" or study.loss.margin == 0 or ramp == 0:
        return "Training loss"
    return f"Training loss; its margin grows until round {min(rounds, math.ceil(ramp * rounds) + 1)}"


def heard(quiet_s: float | None) -> str:
    """How fresh the journal is."""
    return "nothing has happened yet" if quiet_s is None else f"last line of the journal {_ago(quiet_s)} ago"


def budget(study: Study, lines: list[Line], done: int) -> list[str]:
    """What the patients, or the hospitals, were promised, and how much of it is spent as far as the lab can know."""
    privacy, planned = study.privacy, study.federation.rounds
    if privacy.unit == "none":
        return ["No differential privacy: what the shared model tells of a patient is not bounded."]
    promise = f"epsilon {privacy.epsilon:g} at delta {privacy.delta:g}"
    if privacy.unit == "hospital":
        sums = sum(line["event"] == "aggregated" for line in lines)
        spent = CentralPlan.of(study).epsilon_after(sums) if sums else 0.0
        return [f"For each hospital, by the server's noise: {spent:.3g} of {promise} spent in {plural(sums, 'sum')}."]
    return [
        f"For each patient: at most {promise} over all {plural(planned, 'round')}, of which {done} are done.",
        "How much each hospital has spent stands in its own book, which never leaves it.",
    ]


def told(line: Line) -> Line:
    """A line as people read it: when, what kind, whose, and a sentence."""
    event = line["event"]
    return {
        "time": line["time"],
        "event": event,
        "hospital": line.get("hospital", ""),
        "text": _SENTENCES[event](line),
        "alarming": event in _ALARMING,
    }


def _place(line: Line) -> str:
    again = f", attempt {line['attempt']}" if line.get("attempt", 1) > 1 else ""
    return f"Round {line['round']}{again}"


_SENTENCES: dict[str, Callable[[Line], str]] = {
    "opened": lambda line: "Opened" if line["after"] < 0 else f"Opened again after round {line['after']}",
    "started": lambda line: f"{_place(line)} begun with {plural(len(line['hospitals']), 'hospital')}",
    "answered": lambda line: f"{_place(line)}: {line['hospital']} answered ({line['phase']})",
    "leftout": lambda line: f"{_place(line)}: {line['hospital']} left out ({line['phase']}): {line['code']}",
    "dropped": lambda line: f"{_place(line)}: a message did not count ({line['phase']}): {line['reason']}",
    "survived": lambda line: f"{_place(line)}: the sum of {plural(len(line['hospitals']), 'hospital')} may be opened",
    "aggregated": lambda line: f"{_place(line)}: {plural(len(line['answered']), 'update')} summed",
    "checkpointed": lambda line: f"{_place(line)} done; SHA-256 {line['sha256'][:12]}",
    "failed": lambda line: f"{_place(line)} failed ({line['phase']}): {line['reason']}",
}


def _ago(seconds: float) -> str:
    """``3 minutes``."""
    for size, noun in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            return plural(int(seconds // size), noun)
    return plural(int(seconds), "second")
