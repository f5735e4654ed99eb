"""What does an attack on a run find? Three attacks under four settings, written into the run's folder.

    plain, masked, DP, masked + DP
      inversion    a photo out of one hospital's part of one round (views, inversion, likeness)
      membership   who was trained on, from the final model (membership, models)
      canaries     the epsilon that canaries prove, against the accounted one (canaries, guessing)

Masks change nothing about the final model, and to canaries the parts of the other hospitals are as good as known: so
``masked`` has the membership and the canaries of ``plain``, and ``masked + DP`` the membership of ``DP``.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bioface_core.accounting import Plan
from bioface_core.checkpoint import RunFolder, open_run
from bioface_core.config import Study
from bioface_core.errors import RunError
from bioface_core.files import write_text
from bioface_core.learner import Learner, use
from bioface_core.model import to_float
from bioface_core.photos import FACE_SIZE_PX, PhotoSet, concatenate, first_photos
from bioface_core.report.attacks import ATTACKS, Attacks, Canaries, Defence, Estimate, Inversion, Membership
from bioface_core.report.run_folder import read_run
from bioface_core.start import Start, has_start, read_start
from simulation import sites
from simulation.attack.canaries import CONFIDENCE, EmpiricalEpsilon, empirical_epsilon, without_noise
from simulation.attack.guessing import least_rate
from simulation.attack.inversion import Inverter, Known
from simulation.attack.likeness import Gallery, likeness_db
from simulation.attack.membership import confidences, halves, membership, surprise
from simulation.attack.models import final_of, plain_study, private_study, reference_models, train_twin
from simulation.attack.views import Lab, Setting, plans_of, settings_for
from simulation.hospitals import hospital_names, strangers
from simulation.progress import Progress

CODE_PLAN = Plan(1.0, 3.536, steps=2, rounds=1, clip=1.0, delta=1e-6, expected=500.0)
"""Everybody in every step, and few steps: the accounted epsilon, 1.78, has no slack, and half the noise shows."""


@dataclass(frozen=True)
class Effort:
    """How hard to try.

    Attributes:
        victims: patients whose photo is looked for.
        steps: of each search.
        references: reference models of the membership attack, an even number.
        strangers: patients of no hospital beside the held-out ones, where phantoms can be had.
        canaries: of the study's plan.
        code_canaries: of the audit of the code.
    """

    victims: int = 8
    steps: int = 200
    references: int = 4
    strangers: int = 1_000
    canaries: int = 5_000
    code_canaries: int = 60_000


@dataclass(frozen=True)
class Scene:
    """A run, as its attacker has it.

    Attributes:
        folder: the run's.
        study: the run's.
        plain: without privacy.
        private: with it.
        start: what everybody starts from.
        train: training photos of each hospital.
        heldout: held-out photos of each hospital.
        plans: of each hospital, under ``private``.
    """

    folder: Path
    study: Study
    plain: Study
    private: Study
    start: Start
    train: tuple[PhotoSet, ...]
    heldout: tuple[PhotoSet, ...]
    plans: tuple[Plan, ...]


def attack(folder: Path, progress: Progress, effort: Effort = Effort()) -> Attacks:  # noqa: B008 - immutable
    """Attacks a run, or goes on with it.

    Args:
        folder: of a finished simulation.
        progress: is told what goes on.
        effort: how hard to try.

    Returns:
        What was found; it is in ``attacks.json`` then.

    Raises:
        RunError: no run, unfinished, or without the hospitals' photos.
        ConfigError: the study's network or loss cannot be trained privately.
    """
    study = _attackable(folder)
    use(study.speed)
    with open_run(folder, study):
        (folder / "attacks").mkdir(exist_ok=True)
        scene = _scene(folder, study)
        found = _found(scene, effort, progress)
        write_text(folder / ATTACKS, json.dumps(dataclasses.asdict(found), indent=1))
        return found


def _attackable(folder: Path) -> Study:
    """The study of a run that can be attacked."""
    run = read_run(folder)
    study = run.study
    if len(run.rounds) <= study.federation.rounds:
        done = max(0, len(run.rounds) - 1)
        raise RunError(f"{folder}: {done} of {study.federation.rounds} rounds are done: finish the run, then attack it")
    if not sites.has_hospitals(folder, study) or not has_start(folder):
        raise RunError(f"{folder} holds no photos of patients to attack: name a run of `bioface simulate`")
    if study.privacy.unit == "hospital":
        raise RunError(f"{folder}: privacy.unit is hospital, which hides no patient from the lab: attack another run")
    return study


def _scene(folder: Path, study: Study) -> Scene:
    plain, private = plain_study(study), private_study(study)
    stores = [sites.read_hospital(folder, study, index) for index in range(len(hospital_names(study)))]
    train = tuple(store.train() for store in stores)
    heldout = tuple(store.heldout() for store in stores)
    plans = tuple(plans_of(private, train))
    return Scene(folder, study, plain, private, read_start(folder, study), train, heldout, plans)


def _found(scene: Scene, effort: Effort, progress: Progress) -> Attacks:
    settings = settings_for(len(scene.train))
    proven, code = _canaries(scene, settings, effort, progress)
    inverted = _Inversions(scene, effort).under(settings, progress)
    finals = _finals(scene, progress)
    members, member_P = _members(scene, finals, effort, progress)
    defences = [
        Defence(one.name, finals[one.private][1], inverted.by_setting[one.name], members[one.private], proven[one.name])
        for one in settings
    ]
    return Attacks(
        hospital=hospital_names(scene.study)[0],
        round=_attacked_round(scene.study),
        victims=inverted.victims,
        chance=inverted.chance,
        itself=inverted.itself,
        nobody_db=inverted.nobody_db,
        members=int(member_P.sum()),
        others=int((~member_P).sum()),
        references=effort.references,
        delta=scene.plans[0].delta,
        defences=tuple(defences),
        code=code,
    )


# Canaries.


def _canaries(
    scene: Scene, settings: tuple[Setting, ...], effort: Effort, progress: Progress
) -> tuple[dict[str, Canaries], Canaries]:
    """What canaries prove by setting, and of the code under the plan that shows mistakes best."""
    bar, own, others = progress.bar("canaries"), scene.plans[0], scene.plans[1:]
    bare = without_noise(own.delta, effort.canaries)
    proven = {}
    for done, setting in enumerate(settings):
        bar(done, len(settings) + 1, setting.name)
        beside = others if setting.masked else ()
        proven[setting.name] = empirical_epsilon(own, effort.canaries, beside=beside) if setting.private else bare
    code = empirical_epsilon(CODE_PLAN, effort.code_canaries)
    bar(len(settings) + 1, len(settings) + 1)
    return {name: _recorded(one) for name, one in proven.items()}, _recorded(code)


def _recorded(found: EmpiricalEpsilon) -> Canaries:
    return Canaries(found.lower, found.gaussian, found.accounted, found.canaries, found.guesses, found.right)


# Membership.


def _finals(scene: Scene, progress: Progress) -> dict[bool, tuple[Tensor, float]]:
    """The final model without privacy and with it, each with its macro Top-1."""
    is_private = scene.study.privacy.unit == "patient"
    twin, name = (scene.plain, "plain") if is_private else (scene.private, "private")
    path = train_twin(scene.folder, twin, name, progress)
    return {is_private: final_of(scene.folder, scene.study), not is_private: final_of(path, twin)}


def _members(
    scene: Scene, finals: dict[bool, tuple[Tensor, float]], effort: Effort, progress: Progress
) -> tuple[dict[bool, Membership], Tensor]:
    """What the final models tell about who was trained on, and who was, bool (P,)."""
    ours = concatenate([*scene.train, *scene.heldout])
    learner = Learner(scene.plain, scene.start.base, scene.start.identities)
    bar = progress.bar("reference models")
    vectors, trained_MP = reference_models(scene.folder, learner, ours, effort.references, bar)
    everyone, trained_MP = _with_strangers(scene, ours, trained_MP, effort, progress)
    member_P = torch.arange(everyone.patients()) < sum(photos.patients() for photos in scene.train)
    references_MP = torch.stack([confidences(learner, vector, everyone) for vector in vectors])
    found = {}
    for private, (vector, _) in finals.items():
        scores_P = surprise(confidences(learner, vector, everyone), references_MP, trained_MP)
        found[private] = membership(scores_P, member_P)
    return found, member_P


def _with_strangers(
    scene: Scene, ours: PhotoSet, trained_MP: Tensor, effort: Effort, progress: Progress
) -> tuple[PhotoSet, Tensor]:
    """Adds patients of no hospital, so that rare false alarms can be counted; no model has been trained on any.

    Each is judged by as many references as everybody else is: half of them are left out, in pairs, by chance.
    """
    count_K = torch.bincount(ours.labels_N[first_photos(ours.patients_N)], minlength=len(scene.study.syndromes))
    wanted_K = (count_K * effort.strangers / count_K.sum()).ceil().long().tolist()
    counts = dict(zip(scene.study.syndromes, wanted_K, strict=True))
    others = strangers(scene.study, counts, progress.bar("strangers")) if effort.strangers else None
    if others is None:
        return ours, trained_MP
    passed_over_MP = halves(others.patients(), len(trained_MP), scene.study.seed + 1)
    return concatenate([ours, others]), torch.cat([trained_MP, passed_over_MP], 1)


# Inversion.


@dataclass(frozen=True)
class _Inverted:
    """What inversions gave, as in ``Attacks``."""

    by_setting: dict[str, Inversion]
    victims: int
    chance: float
    itself: float
    nobody_db: float


class _Inversions:
    """Photos of the first hospital's patients, looked for in its part of one round."""

    def __init__(self, scene: Scene, effort: Effort) -> None:
        self._round, self._effort, self._train = _attacked_round(scene.study), effort, scene.train[0]
        vector = RunFolder(scene.folder).read_tensors(self._round - 1)["vector"]
        self._face_1CHW = _public_face(scene.start)
        known = Known(scene.plain, scene.start.base, vector, self._round, self._face_1CHW)
        self._inverter = Inverter(known)
        self._lab = Lab(scene.plain, scene.start.base, vector, self._round, scene.train, scene.plans)
        everyone = concatenate([*scene.train, *scene.heldout])  # the first hospital's training photos come first
        self._gallery = Gallery.of(scene.study.model, scene.start.base, everyone)
        self._victims = _spread(self._train, effort.victims)

    def under(self, settings: tuple[Setting, ...], progress: Progress) -> _Inverted:
        """Every victim under every setting."""
        bar, total = progress.bar("inversion"), len(settings) * len(self._victims)
        found: dict[str, Inversion] = {}
        for number, setting in enumerate(settings):
            faces = []
            for done, position in enumerate(self._victims, start=number * len(self._victims)):
                bar(done, total, setting.name)
                faces.append(self._invert(setting, position))
            found[setting.name] = self._judged(faces)
        bar(total, total)
        truth = [self._true(position) for position in self._victims]
        nobody = self._judged([self._face_1CHW] * len(self._victims))
        itself = self._judged(truth).named.value
        return _Inverted(found, len(self._victims), self._gallery.chance, itself, nobody.likeness_db)

    def _invert(self, setting: Setting, position: int) -> Tensor:
        victim = self._train.take(torch.tensor([position]))
        update = self._lab.sees(setting, victim)
        return self._inverter.invert(update, victim.labels_N, setting.private, self._effort.steps)

    def _judged(self, faces: list[Tensor]) -> Inversion:
        pairs = list(zip(faces, self._victims, strict=True))
        named = sum(self._gallery.names(face_1CHW, position) for face_1CHW, position in pairs)
        likeness = [likeness_db(face_1CHW, self._true(position)) for face_1CHW, position in pairs]
        return Inversion(_share(named, len(pairs)), sum(likeness) / len(likeness))

    def _true(self, position: int) -> Tensor:
        return to_float(self._train.photos_NCHW[position : position + 1])


def _attacked_round(study: Study) -> int:
    """One in the middle: the model knows something, and is not the one that judges."""
    return study.federation.rounds // 2 + 1


def _public_face(start: Start) -> Tensor:
    """The mean of public people, or grey where the study needs none, float (1, C, H, W)."""
    if start.identities is None:
        return torch.zeros(1, 3, FACE_SIZE_PX, FACE_SIZE_PX)
    return to_float(start.identities.photos_NCHW).mean(0, keepdim=True)


def _spread(photos: PhotoSet, count: int) -> list[int]:
    """Positions of one photo each of so many patients, spread over all."""
    patients_P, index_N = photos.patients_N.unique(return_inverse=True)
    chosen = torch.linspace(0, len(patients_P) - 1, min(count, len(patients_P))).long().tolist()
    return [int((index_N == patient).nonzero()[0]) for patient in chosen]


def _share(hits: int, trials: int) -> Estimate:
    """A share with Clopper and Pearson's interval."""
    error = (1 - CONFIDENCE) / 2
    return Estimate(hits / trials, least_rate(hits, trials, error), 1 - least_rate(trials - hits, trials, error))
