"""What is the answer for one patient? Ranked syndromes with honest probabilities, or one of two ways of saying no.

    photo not usable          nothing could be looked at; each photo has its reason
    no syndrome recognised    the face is farther from every syndrome than nearly all patients are
    ranked                    the syndromes of model and gallery, each with the probability that it is the one, *if* it
                              is one of them; and, apart from that, the same after the clinician's terms

Neither of the first two says that a patient is healthy.

Legend: N photos, P patients, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
import torch.nn.functional as F
from torch import Tensor

from bioface_core.errors import ConfigError
from bioface_core.expert import Expert
from bioface_core.gallery import Gallery, Neighbour, Ranked, gallery_of, nearness, neighbours, rank
from bioface_core.quality import Reason
from bioface_core.terms import Finding, Updated, update


class Answer(StrEnum):
    """What kind of answer it is."""

    RANKED = "ranked"
    UNKNOWN = "no syndrome recognised"
    UNUSABLE = "photo not usable"


@dataclass(frozen=True)
class Prediction:
    """The answer for a patient.

    Attributes:
        answer: its kind.
        ranking: likeliest first; empty where no photo was usable. It is there under ``UNKNOWN`` as well, for whoever
            wants to look, and is then no answer.
        nearness: the cosine to the nearest syndrome, -1 to 1; None without a usable photo.
        threshold: the nearness below which no syndrome is recognised.
        photos: on how many usable photos it rests.
        refused: why others were not usable.
        neighbours: entries of the gallery, nearest first; local ones may not leave the hospital.
        updated: the ranking by photo and terms, where terms were given.
    """

    answer: Answer
    ranking: tuple[Ranked, ...]
    nearness: float | None
    threshold: float
    photos: int
    refused: tuple[Reason, ...]
    neighbours: tuple[Neighbour, ...]
    updated: tuple[Updated, ...]


def predict(
    expert: Expert,
    faces_NCHW: Tensor,
    patients_N: Tensor,
    refused: Sequence[tuple[Reason, ...]],
    gallery: Gallery | None = None,
    seen: Sequence[Finding] = (),
) -> tuple[Prediction, ...]:
    """Answers for several patients at once.

    Args:
        expert: the trained model.
        faces_NCHW: uint8, the usable photos of all patients, aligned.
        patients_N: int64, of whom each photo is, 0 to P - 1; some may have none.
        refused: why the other photos of each of the P patients are not usable.
        gallery: of this model; None is an empty one.
        seen: terms that somebody has found, or looked for and not found, in every one of these patients.

    Returns:
        One per patient, in order. A patient's photos are averaged.

    Raises:
        PhotoError: the gallery is another model's.
        ConfigError: terms for a model that nobody has calibrated: they move probabilities, and there are none.
    """
    if seen and not expert.calibration.patients:
        raise ConfigError("the model is not calibrated, so that terms have no probabilities to move: leave them out")
    gallery = Gallery.empty(expert) if gallery is None else gallery_of(expert, gallery)
    embeddings_PD, count_P = _per_patient(expert, faces_NCHW, patients_N, len(refused))
    near_P = nearness(expert, gallery, embeddings_PD).cpu()
    recognised_P = expert.calibration.recognised(near_P)
    rankings, nearest = rank(expert, gallery, embeddings_PD), neighbours(gallery, embeddings_PD)
    return tuple(
        Prediction(
            Answer.RANKED if recognised_P[number] else Answer.UNKNOWN,
            rankings[number],
            float(near_P[number]),
            expert.calibration.nearness,
            photos,
            reasons,
            nearest[number],
            _updated(rankings[number], seen),
        )
        if photos
        else Prediction(Answer.UNUSABLE, (), None, expert.calibration.nearness, 0, reasons, (), ())
        for number, (photos, reasons) in enumerate(zip(count_P.tolist(), refused, strict=True))
    )


def _updated(ranking: Sequence[Ranked], seen: Sequence[Finding]) -> tuple[Updated, ...]:
    return update({one.key: one.probability or 0.0 for one in ranking}, seen) if seen else ()


def _per_patient(expert: Expert, faces_NCHW: Tensor, patients_N: Tensor, patients: int) -> tuple[Tensor, Tensor]:
    """Unit means (P, D), zero for patients without a photo, and how many photos each has."""
    sums_PD = torch.zeros(patients, expert.study.model.embedding, device=expert.device)
    if len(faces_NCHW):
        sums_PD.index_add_(0, patients_N.to(expert.device), expert.embed(faces_NCHW))
    return F.normalize(sums_PD), torch.bincount(patients_N, minlength=patients)
