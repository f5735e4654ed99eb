"""Does this installation work, end to end? A lab and three phantom hospitals on this machine, for three rounds.

The rehearsal passes if every hospital answered every round and the final model is, bit for bit, that of the same study
run inline. With ``chaos``, faults come one after another, and the model must be that of the hospitals that answered.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Group
from rich.table import Table

from bioface_core.config import find_study, read_study
from bioface_core.errors import ConfigError, RoundError
from server.follow import Ended, follow, wait_for
from server.serve import give_order, is_served
from simulation.progress import Progress
from simulation.rehearse.faults import Experience, faults_of, suffer
from simulation.rehearse.replay import answered_by_round, last_vector, replay
from simulation.rehearse.stage import Stage, set_stage

_PATIENCE_S = 300.0  # for every process to be up: a dozen of them import a few libraries each
_CHAOS_ROUNDS = 1000  # more than the faults take; the run is stopped after them


@dataclass
class Outcome:
    """What a rehearsal found.

    Attributes:
        steps: what was done and how long it took, seconds.
        rounds: complete ones.
        hospitals: how many.
        everybody_answered: in every round.
        equal: whether the final model is the undisturbed one, bit for bit.
        faults: what was injected, if anything was.
        folder: where everything lies, if it was kept.
    """

    steps: list[tuple[str, float]] = field(default_factory=list)
    rounds: int = 0
    hospitals: int = 0
    everybody_answered: bool = False
    equal: bool = False
    faults: tuple[Experience, ...] = ()
    folder: Path | None = None

    @property
    def passed(self) -> bool:
        """Whether all is as it should be."""
        if not self.faults:
            return self.equal and self.everybody_answered
        return self.equal and all(fault.survived and fault.rounds_lost == 0 for fault in self.faults)

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        facts = asdict(self) | {"passed": self.passed, "folder": None if self.folder is None else str(self.folder)}
        return facts | {"steps": [{"step": step, "seconds": seconds} for step, seconds in self.steps]}

    def table(self) -> Group:
        """For people."""
        steps = Table("step", "seconds", title="rehearsal", title_justify="left")
        for step, seconds in self.steps:
            steps.add_row(step, f"{seconds:.1f}")
        same = "equal to" if self.equal else "NOT equal to"
        ending = f"{self.rounds} rounds, {self.hospitals} hospitals; the model is {same} the inline one, bit for bit"
        tables = [steps, *([self._faults_table()] if self.faults else [])]
        return Group(*tables, ending, "passed" if self.passed else "FAILED")

    def _faults_table(self) -> Table:
        grid = Table("fault", "survived", "detected in, s", "rounds lost", "recovered in, s", title="chaos")
        for fault in self.faults:
            detected = "-" if fault.detected_s is None else f"{fault.detected_s:.1f}"
            survived = "yes" if fault.survived else "NO"
            grid.add_row(fault.fault, survived, detected, str(fault.rounds_lost), f"{fault.recover_s:.1f}")
        return grid


def rehearse(progress: Progress, chaos: bool = False, keep: Path | None = None, masked: bool = False) -> Outcome:
    """Rehearses a federation.

    Args:
        progress: is told what goes on.
        chaos: inject faults.
        keep: a folder to keep everything in; must not exist. A temporary one if None.
        masked: with secure aggregation.

    Raises:
        ConfigError: ``keep`` exists.
        RoundError: a process did not come up.
    """
    outcome = Outcome(folder=keep)
    with _folder(keep) as folder:
        with _step(outcome, "make a lab and hospitals, invite, approve"):
            stage = set_stage(folder, _study(chaos, masked), progress)
        with stage.playing():
            _play(stage, outcome, progress, chaos)
        with _step(outcome, "run the same study inline"):
            _compare(stage, outcome)
    return outcome


def _study(chaos: bool, masked: bool) -> Any:
    deadline_s = 60 if masked else 20  # five steps share it
    overrides = (f"federation.rounds={_CHAOS_ROUNDS}", f"federation.deadline_s={deadline_s}") if chaos else ()
    masks = ("secure.enabled=true",) if masked else ()
    return read_study(find_study("rehearsal"), (*overrides, *masks))


def _play(stage: Stage, outcome: Outcome, progress: Progress, chaos: bool) -> None:
    """The run itself."""
    with _step(outcome, "start everything"):
        _until(lambda: is_served(stage.lab), "`bioface lab serve` did not start")
        number = give_order(stage.lab, "run", stage.study)
        wait_for(stage.lab, number)
        _until(lambda: _rounds(stage) >= 0, "the hospitals did not connect")
    if not chaos:
        with _step(outcome, f"{stage.study.federation.rounds} rounds"):
            ended: Ended = follow(stage.lab, number, progress.bar("rounds"))
        if ended.state != "finished":
            raise RoundError(f"the run {ended.state}: {ended.reason}")
        return
    with _step(outcome, f"{len(faults_of(stage.study))} faults"):
        outcome.faults = suffer(stage, progress)
        wait_for(stage.lab, give_order(stage.lab, "stop"))


def _compare(stage: Stage, outcome: Outcome) -> None:
    """Holds the final model against the inline one of the same hospitals."""
    run = stage.lab.runs / stage.study.name
    answered = answered_by_round(run)
    outcome.rounds, outcome.hospitals = len(answered) - 1, len(stage.hospitals)
    outcome.everybody_answered = all(len(names) == len(stage.hospitals) for names in answered)
    outcome.equal = torch.equal(last_vector(run), replay(stage.inline, stage.study, answered))


def _rounds(stage: Stage) -> int:
    return len(answered_by_round(stage.lab.runs / stage.study.name)) - 1


def _until(holds: Any, otherwise: str) -> None:
    """Waits until something holds.

    Raises:
        RoundError: it never does.
    """
    until = time.monotonic() + _PATIENCE_S
    while not holds():
        if time.monotonic() > until:
            raise RoundError(f"{otherwise} within {_PATIENCE_S:.0f} s: keep the folder with --keep, and see its logs")
        time.sleep(0.1)


@contextmanager
def _step(outcome: Outcome, name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    outcome.steps.append((name, round(time.monotonic() - began, 1)))


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="bioface-rehearsal-") as scratch:
            yield Path(scratch)
        return
    if keep.exists():
        raise ConfigError(f"{keep} exists: choose a folder that does not, or delete it")
    keep.mkdir(parents=True)
    yield keep.resolve()
