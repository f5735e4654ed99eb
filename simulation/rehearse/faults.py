"""What can go wrong, and does the federation survive it? Faults that are really made, one after another.

Each comes in the middle of a round. It is over when a round is finished that began after it and that every hospital
which can answer has answered. A round is lost when the journal says that it failed.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bioface_core.config import Study
from bioface_core.supervise import Child, command
from server.follow import wait_for
from server.serve import give_order, read_status
from simulation.progress import Progress
from simulation.rehearse import evil
from simulation.rehearse.stage import Stage, child_environment

_LOOK_S = 0.05
_PATIENCE_S = 150.0
_CUT_S = 4.0  # how long a cable is out
_FULL_BYTES = 2000  # a file may not grow beyond this when the disk is "full"
_TROUBLE = {"ended", "resuming", "failed", "leftout", "dropped", "opened"}  # words of our logs and of the journal


@dataclass(frozen=True)
class Experience:
    """What came of a fault.

    Attributes:
        fault: what was done.
        survived: whether the run went on, with everybody who can.
        detected_s: seconds until a log or the journal said so; None if nothing had to.
        rounds_lost: rounds that failed.
        recover_s: seconds from the fault to the first round that was whole again.
    """

    fault: str
    survived: bool
    detected_s: float | None
    rounds_lost: int
    recover_s: float


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        name: what is done, in words.
        make: does it, and undoes it where somebody would.
        missing: how many hospitals cannot answer while it lasts.
        code: the word that the journal must have for the one that is left out; empty where several would do.
        mend: what is done when that was seen.
    """

    name: str
    make: Callable[[Stage], None]
    missing: int = 0
    code: str = ""
    mend: Callable[[Stage], None] = lambda stage: None


def suffer(stage: Stage, progress: Progress) -> tuple[Experience, ...]:
    """Makes every fault, in turn."""
    bar, experiences, faults = progress.bar("faults"), list[Experience](), faults_of(stage.study)
    for done, fault in enumerate(faults):
        bar(done, len(faults), note=fault.name)
        experiences.append(_suffer_one(stage, fault))
    bar(len(faults), len(faults))
    return tuple(experiences)


def faults_of(study: Study) -> tuple[Fault, ...]:
    """What can go wrong in a study; where updates are masked, nobody can see that one means ill."""
    return FAULTS if study.secure.enabled else FAULTS + ILL_WILL


def _suffer_one(stage: Stage, fault: Fault) -> Experience:
    before = _journal(stage)
    _wait(lambda: _started(_journal(stage)) > _started(before))
    logs = {path: path.stat().st_size for path in _logs(stage)}
    seen, began = len(_journal(stage)), time.monotonic()
    fault.make(stage)
    detected: list[float] = []

    def over() -> bool:
        if not detected and _trouble(stage, logs, seen):
            detected.append(time.monotonic() - began)
        return _is_whole(stage, _journal(stage)[seen:], fault)

    survived = _wait(over)
    recovered = time.monotonic() - began
    fault.mend(stage)
    lost = sum(entry["event"] == "failed" for entry in _journal(stage)[seen:])
    if fault.missing:
        survived = survived and _wait(lambda: _is_whole(stage, _journal(stage)[seen:], Fault("", fault.make)))
    found = round(detected[0], 1) if detected else None
    return Experience(fault.name, survived, found, lost, round(recovered, 1))


def _is_whole(stage: Stage, since: list[dict[str, Any]], fault: Fault) -> bool:
    """Whether a round has begun and ended since, with everybody who can answer, and for the reason that is expected."""
    wanted = len(stage.hospitals) - fault.missing
    begun = {entry["round"] for entry in since if entry["event"] == "started"}
    whole = {e["round"] for e in since if e["event"] == "aggregated" and len(e["answered"]) == wanted}
    done = {entry["round"] for entry in since if entry["event"] == "checkpointed"}
    codes = {entry["code"] for entry in since if entry["event"] == "leftout"}
    return bool(begun & whole & done) and (not fault.code or fault.code in codes)


def _trouble(stage: Stage, logs: dict[Path, int], seen: int) -> bool:
    """Whether anybody has written since that something is wrong."""
    lines = [line for path, size in logs.items() for line in _lines(path, size)]
    return any(entry.get("event") in _TROUBLE for entry in [*lines, *_journal(stage)[seen:]])


def _kill(child: str, where: Callable[[Stage], Path]) -> Callable[[Stage], None]:
    """Kills -9 a process by the pid its supervisor logged."""

    def make(stage: Stage) -> None:
        os.kill(_pid(where(stage), child), signal.SIGKILL)

    return make


def _both(one: Callable[[Stage], None], other: Callable[[Stage], None]) -> Callable[[Stage], None]:
    def make(stage: Stage) -> None:
        one(stage)
        other(stage)

    return make


def _lab_log(stage: Stage) -> Path:
    return stage.lab.logs / "lab.jsonl"


def _hospital_log(number: int) -> Callable[[Stage], Path]:
    return lambda stage: list(stage.hospitals.values())[number].logs / "hospital.jsonl"


def _kill_serve(stage: Stage) -> None:
    """Kills `bioface lab serve`, whose children end by themselves, and starts it again."""
    stage.serving.kill()
    stage.serving.start()


def _kill_join(stage: Stage) -> None:
    joined = list(stage.joined.values())[0]
    joined.kill()
    joined.start()


def _leave_and_come_back(stage: Stage) -> None:
    joined = list(stage.joined.values())[1]
    joined.stop()
    joined.start()


def _pull_cable(stage: Stage) -> None:
    cable = list(stage.cables.values())[2]
    cable.pull()
    time.sleep(_CUT_S)
    cable.plug_in()


def _fall_asleep(stage: Stage) -> None:
    os.kill(_pid(_hospital_log(2)(stage), "site"), signal.SIGSTOP)


def _wake_up(stage: Stage) -> None:
    os.kill(_pid(_hospital_log(2)(stage), "site"), signal.SIGCONT)


def _fill_disk(stage: Stage) -> None:
    """The ServerApp cannot write any more: it stops cleanly, and is started again when there is room."""
    pid = _pid(_lab_log(stage), "serverapp")
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (_FULL_BYTES, resource.RLIM_INFINITY))
    _wait(lambda: read_status(stage.lab).state == "failed")
    wait_for(stage.lab, give_order(stage.lab, "run", stage.study))


def _turn_evil(kind: str) -> Callable[[Stage], None]:
    """The last hospital's site is replaced by one that means ill."""

    def make(stage: Stage) -> None:
        hospital = list(stage.hospitals.values())[-1]
        stage.joined[hospital.settings.name].stop()
        evil.tell(hospital, kind)
        names = ("node", "evil-site")
        stage.evil = [Child(name, command(name, str(hospital.folder)), child_environment()) for name in names]
        for child in stage.evil:
            child.start()

    return make


def _turn_good(stage: Stage) -> None:
    for child in stage.evil:
        child.stop()
    stage.joined[list(stage.hospitals)[-1]].start()


FAULTS = (
    Fault("kill -9 of the ServerApp", _kill("serverapp", _lab_log)),
    Fault("kill -9 of the SuperLink", _kill("superlink", _lab_log)),
    Fault("kill -9 of SuperLink and ServerApp", _both(_kill("superlink", _lab_log), _kill("serverapp", _lab_log))),
    Fault("kill -9 of `lab serve`", _kill_serve),
    Fault("the lab's disk is full", _fill_disk),
    Fault("kill -9 of a site process", _kill("site", _hospital_log(0))),
    Fault("kill -9 of a SuperNode", _kill("node", _hospital_log(1))),
    Fault(
        "kill -9 of site process and SuperNode", _both(_kill("site", _hospital_log(2)), _kill("node", _hospital_log(2)))
    ),
    Fault("kill -9 of `hospital join`", _kill_join),
    Fault("a hospital leaves and comes back", _leave_and_come_back),
    Fault("a cable is out for 4 s", _pull_cable),
    Fault("a site answers after the deadline", _fall_asleep, missing=1, mend=_wake_up),
)
ILL_WILL = tuple(
    Fault(f"a hospital {kind}", _turn_evil(kind), missing=1, code=code.value, mend=_turn_good)
    for kind, (_, code) in evil.KINDS.items()
)


def _pid(log: Path, process: str) -> int:
    """Of the last process of this name that a supervisor started."""
    started = [line for line in _lines(log) if line.get("event") == "started" and line["process"] == process]
    return int(started[-1]["pid"])


def _logs(stage: Stage) -> list[Path]:
    return [_lab_log(stage), *(hospital.logs / "hospital.jsonl" for hospital in stage.hospitals.values())]


def _journal(stage: Stage) -> list[dict[str, Any]]:
    return list(_lines(stage.lab.runs / stage.study.name / "journal.jsonl"))


def _started(journal: list[dict[str, Any]]) -> int:
    return sum(entry["event"] == "started" for entry in journal)


def _lines(path: Path, start: int = 0) -> Iterator[dict[str, Any]]:
    """The whole lines of a file of JSON lines."""
    for line in path.read_bytes()[start:].splitlines():
        with suppress(ValueError):
            yield json.loads(line)


def _wait(holds: Callable[[], bool]) -> bool:
    """Whether something holds before patience runs out."""
    until = time.monotonic() + _PATIENCE_S
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(_LOOK_S)
    return True
