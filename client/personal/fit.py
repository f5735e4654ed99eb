"""How far is the shared model trained on at a hospital? As far as it helps patients who were left out.

    1. The hospital's training patients are split into folds, whole patients. For each fold the shared model is trained
       on the others, epoch by epoch, and asked about the fold after each.
    2. The number of epochs is the one with the least log loss over all folds, and zero epochs is one of the choices:
       then the hospital's own model is the shared one.
    3. With so many epochs it is trained on all training patients, and compared with the shared model, once, on the
       held-out patients, whom neither has seen.

What the hospital lacks it cannot teach: a syndrome without a patient here may be recognised worse than before, and no
patient here can show it.

Legend: P patients, E epochs, K syndromes.

Source: Wang et al. 2019, "Federated evaluation of on-device personalization" (fine-tuning, and whom it harms).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor

from bioface_core.config import Study
from bioface_core.errors import ConfigError, PassportError, PhotoError
from bioface_core.evaluate import per_patient
from bioface_core.expert import Expert, read_expert
from bioface_core.learner import Learner
from bioface_core.personal import is_personal, write_personal
from bioface_core.photos import PhotoSet
from bioface_core.private import refuse_occupied
from bioface_core.start import Start, read_start
from bioface_core.store import Store, as_studied, read_store
from client.personal.compare import Comparison, compare

PARTS = ("head", "last-stage", "all")
_STREAM = "personal"


@dataclass(frozen=True)
class Plan:
    """How to go about it.

    Attributes:
        part: what is trained: the ``head`` (embedding layer and prototypes), the ``last-stage`` with it, or ``all``.
        epochs: the most that are tried.
        folds: into which the training patients are split.
        rate: learning rate, as a share of the study's.
    """

    part: str = "head"
    epochs: int = 10
    folds: int = 5
    rate: float = 0.25


@dataclass(frozen=True)
class Personal:
    """A hospital's own model.

    Attributes:
        study: the shared one, with the part that was trained.
        weights: every tensor.
        epochs: that were chosen; 0 leaves the shared model as it is.
        losses_E: mean log loss on patients left out, after 0 epochs, 1, and so on.
        trained_on: patients.
        comparison: with the shared model on held-out patients.
        lacking: syndromes of which the hospital has no patient to learn from.
    """

    study: Study
    weights: dict[str, Tensor]
    epochs: int
    losses_E: tuple[float, ...]
    trained_on: int
    comparison: Comparison
    lacking: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All but the weights."""
        told = {name: getattr(self, name) for name in ("epochs", "losses_E", "trained_on", "lacking")}
        return told | {"comparison": asdict(self.comparison)}


def personalise_to(out: Path, model: Path, store: Path, start: Path, plan: Plan) -> Personal:
    """Makes a hospital's own model, and a folder of it.

    Args:
        out: the folder to make.
        model: the shared model, as ``read_expert`` takes it.
        store: the hospital's photos.
        start: what the model's study started from.
        plan: how.

    Raises:
        ConfigError: the plan names no part of the network.
        PhotoError: too few patients to train on, or none held out; or no store there.
        PassportError: the model is a hospital's own already, or damaged, or something is at ``out``.
        RunError: no model there.
        WeightsError: the start is another study's.
    """
    if plan.part not in PARTS:
        raise ConfigError(f"--part {plan.part} is no part to train: expected {', '.join(PARTS)}")
    if is_personal(model):
        raise PassportError(f"{model} is a hospital's own model already: name the shared one")
    refuse_occupied(out, PassportError)
    expert = read_expert(model)
    studied = as_studied(read_store(store), expert.syndromes)
    made = personalise(expert, read_start(start, expert.study), studied, plan)
    write_personal(out, made.study, made.weights, expert.calibration, made.to_json())
    return made


def personalise(expert: Expert, start: Start, store: Store, plan: Plan) -> Personal:
    """Trains the shared model on at a hospital.

    Args:
        expert: the shared model.
        start: what its study started from.
        store: the hospital's photos, labels counting the model's syndromes.
        plan: how.

    Raises:
        PhotoError: too few patients to train on, or none held out.
    """
    study = _study(expert.study, plan)
    learner = Learner(study, start.base, start.identities, expert.device)
    shared = learner.vector_of(expert.network.state_dict())
    train, heldout = store.train().to(expert.device), store.heldout().to(expert.device)
    _refuse_few(train, heldout, plan)
    losses_E = _left_out_losses(learner, shared, train, plan, expert.calibration.temperature)
    epochs = int(np.argmin(losses_E))
    vector = list(_epochs(learner, shared, train, epochs))[-1]
    return Personal(
        study,
        learner.weights(vector),
        epochs,
        tuple(losses_E),
        len(train.patients_N.unique()),
        _compared(learner, shared, vector, heldout, expert.calibration.temperature),
        tuple(key for number, key in enumerate(study.syndromes) if not bool((train.labels_N == number).any())),
    )


def _compared(learner: Learner, shared: Tensor, own: Tensor, heldout: PhotoSet, temperature: float) -> Comparison:
    return compare(_scores(learner, shared, heldout), _scores(learner, own, heldout), temperature)


def _study(study: Study, plan: Plan) -> Study:
    """The shared study with the part that is trained, fresh views, an epoch a round, and no noise: nothing leaves."""
    train = {"epochs": 1, "rate": study.train.rate * plan.rate, "schedule": "constant", "views": 0}
    return study.replace({"model": {"trainable": plan.part}, "train": train, "privacy": {"unit": "none"}})


def _refuse_few(train: PhotoSet, heldout: PhotoSet, plan: Plan) -> None:
    patients = len(train.patients_N.unique())
    if patients < 2 * plan.folds:
        expected = f"expected at least {2 * plan.folds}: two in each of {plan.folds} folds"
        raise PhotoError(f"the store has {patients} training patients of the model's syndromes, {expected}")
    if not len(heldout):
        raise PhotoError("the store holds nobody out: prepare it with --heldout above 0, or nothing can be compared")


def _left_out_losses(learner: Learner, shared: Tensor, train: PhotoSet, plan: Plan, temperature: float) -> list[float]:
    """Mean log loss after each number of epochs, over all patients, each asked when its fold was left out."""
    sums_E, patients = np.zeros(plan.epochs + 1), 0
    for inside_N, outside_N in _folds(train, plan.folds):
        rest, fold = train.take(inside_N), train.take(outside_N)
        for number, vector in enumerate(_epochs(learner, shared, rest, plan.epochs)):
            scores_PK, labels_P = _scores(learner, vector, fold)
            logs_PK = (scores_PK / temperature).log_softmax(1)
            sums_E[number] -= float(logs_PK.gather(1, labels_P[:, None]).sum())
        patients += len(labels_P)
    return [float(one) for one in sums_E / patients]


def _folds(photos: PhotoSet, folds: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Positions inside and outside, as alike in syndromes as may be; a patient is on one side."""
    labels, patients = photos.labels_N.cpu().numpy(), photos.patients_N.cpu().numpy()
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    for inside, outside in splitter.split(np.zeros(len(labels)), labels, patients):
        yield tuple(torch.from_numpy(one).to(photos.labels_N.device) for one in (inside, outside))  # type: ignore[misc]


def _epochs(learner: Learner, vector: Tensor, photos: PhotoSet, epochs: int) -> Iterator[Tensor]:
    """The model after 0 epochs, 1, and so on; the margin is that of a finished run."""
    yield vector
    last = learner.study.federation.rounds
    for epoch in range(1, epochs + 1):
        vector = vector + learner.train(vector, photos, last, f"{_STREAM} {epoch}").delta
        yield vector


def _scores(learner: Learner, vector: Tensor, photos: PhotoSet) -> tuple[Tensor, Tensor]:
    """Scores (P, K) and labels (P,) of patients, on the CPU."""
    patients_PD, labels_P = per_patient(learner.embed(vector, photos), photos.labels_N, photos.patients_N)
    return learner.scores(vector, patients_PD).cpu(), labels_P.cpu()
