"""What must be known of a model before it is used? Where it comes from, how well it does for whom, what it is not for.

Everything is computed from the run's raw files. Small cells are left out (``groups.SMALLEST``): a card travels further
than a report.

Legend: K syndromes.

Source: Mitchell et al. 2019, "Model cards for model reporting" (what a card says).
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from bioface_core.align import TEMPLATE_L2
from bioface_core.calibration import Calibration
from bioface_core.evaluate import Rate
from bioface_core.expert import Expert
from bioface_core.groups import SMALLEST, Shown, publishable
from bioface_core.photos import FACE_SIZE_PX
from bioface_core.report.attacks import HEADINGS, Attacks, cells, reading
from bioface_core.report.build import report_of
from bioface_core.report.facts import Report
from bioface_core.report.run_folder import RunFiles
from bioface_core.report.words import privacy
from bioface_core.syndromes import catalogue

USES = (
    "Research on recognising genetic syndromes from facial photos, and on how hospitals can learn together.",
    "Suggesting syndromes that a clinical geneticist may not have thought of, to be weighed beside everything else.",
)
NOT_USES = (
    "Diagnosis, or ruling a syndrome out: the model knows the syndromes of its list and no other.",
    "Screening of healthy people: many healthy faces are given a ranking too.",
    "Faces of people who have not agreed, or whose guardians have not: to tell who they are or what they may have.",
)
NO_GROUPS = "Hospitals do not report by age, sex or ancestry: how the model does for each of them is not known."


@dataclass(frozen=True)
class Site:
    """A hospital that took part.

    Attributes:
        name: in the roster.
        rounds: in how many its update is in the model.
        epsilon: what every one of its patients is promised at most; None where nothing was promised.
    """

    name: str
    rounds: int
    epsilon: float | None


@dataclass(frozen=True)
class Learned:
    """A syndrome that the model knows.

    Attributes:
        key: as in the study.
        name: what people call it.
        omim: its number there; None where no single entry stands for it.
        orpha: its number in Orphanet; None for one that our catalogue lacks.
        sensitivity: share of its held-out patients for whom it comes first; None where they are too few to publish.
    """

    key: str
    name: str
    omim: int | None
    orpha: int | None
    sensitivity: Rate | None


@dataclass(frozen=True)
class Card:
    """A model card.

    Attributes:
        study: its name.
        study_id: what was run.
        model: SHA-256 of the tensors.
        made: date, ISO.
        software: name to version.
        photos: what it learned from.
        network: its layout, in words.
        rounds: done.
        rounds_planned: asked for.
        sites: who took part.
        top1: macro Top-1 on everyone's held-out patients.
        top3: macro Top-3.
        syndromes: K of them, in the order of the model's scores.
        groups: by age, sex and ancestry; empty where nobody reports them.
        calibration: what probabilities rest on; None where nobody calibrated.
        privacy: what was promised, in words.
        attacks: rows of a table, the settings in the first; empty where nobody tried.
        attacks_read: how to read them.
        uses: what it is for.
        not_uses: what it is not for.
        limits: what must not be concluded.
        landmarks_px: where eyes, nose and mouth corners lie on an aligned face, (x, y) of each.
        face_size_px: side of an aligned face.
        off: largest difference of the exported graph from the model.
    """

    study: str
    study_id: str
    model: str
    made: str
    software: dict[str, str]
    photos: str
    network: str
    rounds: int
    rounds_planned: int
    sites: tuple[Site, ...]
    top1: Rate
    top3: Rate
    syndromes: tuple[Learned, ...]
    groups: tuple[Shown, ...]
    calibration: Calibration | None
    privacy: str
    attacks: tuple[tuple[str, ...], ...]
    attacks_read: tuple[str, ...]
    uses: tuple[str, ...]
    not_uses: tuple[str, ...]
    limits: tuple[str, ...]
    landmarks_px: tuple[tuple[float, float], ...]
    face_size_px: int
    off: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; no number is null."""
        return {key: _plain(value) for key, value in dataclasses.asdict(self).items()}


def card_of(run: RunFiles, expert: Expert, model: str, made: str, software: dict[str, str], off: float) -> Card:
    """The card of a run's last model.

    Args:
        run: its raw files, with at least one round.
        expert: that model.
        model: SHA-256 of its tensors.
        made: date, ISO.
        software: name to version.
        off: largest difference of the exported graph.
    """
    study, report = run.study, report_of(run, {})
    last, attacks = report.rounds[-1], report.attacks
    network = f"SE-ResNet-{study.model.depth}, width {study.model.width:g}, embedding {study.model.embedding}"
    return Card(
        study=study.name,
        study_id=study.study_id,
        model=model,
        made=made,
        software=software,
        photos=_photos(report),
        network=network,
        rounds=last.round,
        rounds_planned=study.federation.rounds,
        sites=_sites(run),
        top1=last.top1,
        top3=last.top3,
        syndromes=tuple(_learned(one.key, one.sensitivity) for one in report.syndromes),
        groups=publishable(run.groups),
        calibration=expert.calibration if expert.calibration.patients else None,
        privacy=privacy(study),
        attacks=() if attacks is None else _attack_rows(attacks),
        attacks_read=() if attacks is None else reading(attacks),
        uses=USES,
        not_uses=NOT_USES,
        limits=(*(report.limits), *((NO_GROUPS,) if not run.groups else ())),
        landmarks_px=tuple((round(x, 4), round(y, 4)) for x, y in TEMPLATE_L2.tolist()),
        face_size_px=FACE_SIZE_PX,
        off=off,
    )


def _attack_rows(attacks: Attacks) -> tuple[tuple[str, ...], ...]:
    """The settings in the first row, then a heading and its figure under each."""
    names = ("", *(one.name for one in attacks.defences))
    return (names, *zip(HEADINGS, *map(cells, attacks.defences), strict=True))


def _photos(report: Report) -> str:
    study = report.study
    if study.roster:
        return "patients of the hospitals below; no photo left any of them"
    return "real photos of a simulation" if study.simulation.stores else "phantoms: faces drawn by a program"


def _sites(run: RunFiles) -> tuple[Site, ...]:
    """Everybody in the roster, and who else answered."""
    answered = Counter(name for record in run.rounds[1:] for name in record.answered)
    names = dict.fromkeys([member.name for member in run.study.roster] + [one.name for one in run.hospitals])
    promised = run.study.privacy.epsilon if run.study.privacy.unit == "patient" else None
    return tuple(Site(name, answered[name], promised) for name in dict.fromkeys([*names, *answered]))


def _learned(key: str, sensitivity: Rate) -> Learned:
    known = catalogue().syndromes.get(key)
    name, omim, orpha = (known.name, known.omim, known.orpha) if known else (key, None, None)
    return Learned(key, name, omim, orpha, sensitivity if sensitivity.patients >= SMALLEST else None)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
