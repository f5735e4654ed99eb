"""What does a report say? These facts, all computed from a run's raw files; ``to_json`` is report.json.

Legend: K syndromes.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from bioface_core.calibration import Calibration
from bioface_core.config import Study
from bioface_core.evaluate import Difference, Rate
from bioface_core.report.attacks import Attacks


@dataclass(frozen=True)
class Arm:
    """One way of training, judged on everyone's held-out patients.

    Attributes:
        name: such as ``hospital-1 alone``.
        kind: ``alone``, ``federated`` or ``pooled``.
        hospital: whose model it is, for ``alone``.
        patients: trained on; None where nobody may know.
        photos: of these patients.
        seconds: of training.
        top1: macro Top-1.
        top3: macro Top-3.
        top5: macro Top-5.
        own_top1: macro Top-1 on its own held-out patients alone.
    """

    name: str
    kind: str
    hospital: str | None
    patients: int | None
    photos: int | None
    seconds: float
    top1: Rate
    top3: Rate
    top5: Rate
    own_top1: Rate | None


@dataclass(frozen=True)
class Round:
    """One finished round of the federation.

    Attributes:
        round: 0 is the model before training.
        seconds: from start to checkpoint.
        loss: mean over the hospitals; None in round 0, and where it is no number.
        answered: the hospitals whose updates are in the model.
        refused: hospital to the reason's code.
        bytes_down: sent to the hospitals.
        bytes_up: received from them.
        top1: macro Top-1 after the round.
        top3: macro Top-3 after the round.
        hospital_bytes: hospital to the bytes sent to it, and received from it; empty in older runs.
    """

    round: int
    seconds: float
    loss: float | None
    answered: tuple[str, ...]
    refused: dict[str, str]
    bytes_down: int
    bytes_up: int
    top1: Rate
    top3: Rate
    hospital_bytes: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Traffic:
    """What went over a hospital's line, in bytes of arrays.

    Attributes:
        hospital: its name.
        down_per_round: sent to it in a round of training in which it was asked, on average.
        up_per_round: received from it, the same.
        down: in all, the evaluation before the first round among it.
        up: the same.
    """

    hospital: str
    down_per_round: float
    up_per_round: float
    down: int
    up: int


@dataclass(frozen=True)
class Syndrome:
    """One class.

    Attributes:
        key: as in the study.
        name: for people to read.
        sensitivity: of the federated model at first rank.
    """

    key: str
    name: str
    sensitivity: Rate


@dataclass(frozen=True)
class Mistake:
    """Patients of one syndrome whom the federated model took for another.

    Attributes:
        true: index of the syndrome they have.
        predicted: index of the one it said.
        patients: how many.
        of: held-out patients of the true syndrome.
    """

    true: int
    predicted: int
    patients: int
    of: int


@dataclass(frozen=True)
class Hospital:
    """Who is at a hospital, by syndrome, in the study's order (K entries each)."""

    name: str
    train_patients: tuple[int, ...]
    heldout_patients: tuple[int, ...]


@dataclass(frozen=True)
class Report:
    """Everything a report says about a run.

    Attributes:
        study: what was run.
        study_id: its hash.
        software: name to version, where the run wrote them down.
        rounds_planned: by the study.
        rounds: finished ones, from round 0.
        arms: hospitals alone, federated, pooled, as far as they were trained.
        alone_top1: mean macro Top-1 of the hospitals alone.
        gain: federated minus that mean, macro Top-1.
        distance: pooled minus federated, macro Top-1.
        syndromes: K classes in the study's order, under the federated model.
        confusion: [true][predicted] held-out patients of the federated model, K x K; empty before the first round.
        mistakes: the most frequent ones, worst first.
        hospitals: empty in a deployment, where nobody may know.
        calibration: how sure the federated model may be; None where that was not counted.
        attacks: what attacks on the run found; None where nobody tried.
        traffic: of each hospital that was asked; empty in older runs.
        headline: the result in a sentence or three.
        notes: what is missing from this report, and why.
        limits: what must not be concluded from it.
    """

    study: Study
    study_id: str
    software: dict[str, str]
    rounds_planned: int
    rounds: tuple[Round, ...]
    arms: tuple[Arm, ...]
    alone_top1: Rate | None
    gain: Difference | None
    distance: Difference | None
    syndromes: tuple[Syndrome, ...]
    confusion: tuple[tuple[int, ...], ...]
    mistakes: tuple[Mistake, ...]
    hospitals: tuple[Hospital, ...]
    calibration: Calibration | None = None
    attacks: Attacks | None = None
    traffic: tuple[Traffic, ...] = ()
    headline: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether all planned rounds are done."""
        return len(self.rounds) > self.rounds_planned

    @property
    def federated(self) -> Arm | None:
        """The federated arm; None before the first round."""
        return next((arm for arm in self.arms if arm.kind == "federated"), None)

    @property
    def pooled(self) -> Arm | None:
        """The arm with all photos in one place; None where it was not trained."""
        return next((arm for arm in self.arms if arm.kind == "pooled"), None)

    @property
    def alone(self) -> tuple[Arm, ...]:
        """The arms of single hospitals."""
        return tuple(arm for arm in self.arms if arm.kind == "alone")

    def to_json(self) -> dict[str, Any]:
        """The content of report.json: plain values, and null for what is not known."""
        content = {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return {**content, "finished": self.finished}


def _plain(value: Any) -> Any:
    """``value`` as JSON has it: no classes, no tuples, and null for NaN."""
    if isinstance(value, Study):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
