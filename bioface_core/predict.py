"""What is the answer for one patient? Ranked syndromes with honest probabilities, or one of two ways of saying no.

    photo not usable          nothing could be looked at; each photo has its reason
    no syndrome recognised    the face is no nearer to the syndromes than healthy faces are
    ranked                    the K syndromes, each with the probability that it is the one, *if* it is one of them

Neither of the first two says that a patient is healthy.

Legend: N photos, P patients, K syndromes, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
import torch.nn.functional as F
from torch import Tensor

from bioface_core.expert import Expert
from bioface_core.quality import Reason
from bioface_core.syndromes import catalogue


class Answer(StrEnum):
    """What kind of answer it is."""

    RANKED = "ranked"
    UNKNOWN = "no syndrome recognised"
    UNUSABLE = "photo not usable"


@dataclass(frozen=True)
class Ranked:
    """A syndrome in a ranking.

    Attributes:
        key: as the study names it.
        name: what people call it.
        omim: number in OMIM, where one entry stands for the syndrome.
        orpha: number in Orphanet; None for a syndrome that our catalogue does not have.
        probability: that it is this one, if it is one of the ranked; None where nobody has calibrated the model.
        cosine: of the face to the syndrome's prototype.
    """

    key: str
    name: str
    omim: int | None
    orpha: int | None
    probability: float | None
    cosine: float


@dataclass(frozen=True)
class Prediction:
    """The answer for a patient.

    Attributes:
        answer: its kind.
        ranking: likeliest first; empty where no photo was usable. It is there under ``UNKNOWN`` as well, for whoever
            wants to look, and is then no answer.
        nearness: to the syndromes rather than to healthy people, about -1 to 1; None without a usable photo.
        threshold: the nearness below which no syndrome is recognised.
        photos: on how many usable photos it rests.
        refused: why others were not usable.
    """

    answer: Answer
    ranking: tuple[Ranked, ...]
    nearness: float | None
    threshold: float
    photos: int
    refused: tuple[Reason, ...]


def predict(
    expert: Expert, faces_NCHW: Tensor, patients_N: Tensor, refused: Sequence[tuple[Reason, ...]]
) -> tuple[Prediction, ...]:
    """Answers for several patients at once.

    Args:
        expert: the trained model.
        faces_NCHW: uint8, the usable photos of all patients, aligned.
        patients_N: int64, of whom each photo is, 0 to P - 1; some may have none.
        refused: why the other photos of each of the P patients are not usable.

    Returns:
        One per patient, in order. A patient's photos are averaged.
    """
    embeddings_PD, count_P = _per_patient(expert, faces_NCHW, patients_N, len(refused))
    scores_PK = expert.scores(embeddings_PD).cpu()
    probability_PK = expert.calibration.probabilities(scores_PK)
    nearness_P = expert.nearness(embeddings_PD).cpu()
    recognised_P = expert.calibration.recognised(nearness_P).tolist()
    rows = zip(probability_PK, scores_PK, nearness_P.tolist(), recognised_P, count_P.tolist(), refused, strict=True)
    return tuple(
        _prediction(expert, ranking_of(expert, probability_K, scores_K), near, known, photos, reasons)
        for probability_K, scores_K, near, known, photos, reasons in rows
    )


def ranking_of(expert: Expert, probability_K: Tensor, scores_K: Tensor) -> tuple[Ranked, ...]:
    """The syndromes by probability; of equals, the first of the study."""
    order = probability_K.argsort(descending=True, stable=True).tolist()
    calibrated = expert.calibration.patients > 0
    return tuple(
        _ranked(expert.syndromes[number], float(probability_K[number]) if calibrated else None, float(scores_K[number]))
        for number in order
    )


def _ranked(key: str, probability: float | None, cosine: float) -> Ranked:
    entry = catalogue().syndromes.get(key)
    name, omim, orpha = (entry.name, entry.omim, entry.orpha) if entry else (key, None, None)
    return Ranked(key, name, omim, orpha, probability, cosine)


def _per_patient(expert: Expert, faces_NCHW: Tensor, patients_N: Tensor, patients: int) -> tuple[Tensor, Tensor]:
    """Unit means (P, D), zero for patients without a photo, and how many photos each has."""
    sums_PD = torch.zeros(patients, expert.study.model.embedding, device=expert.device)
    if len(faces_NCHW):
        sums_PD.index_add_(0, patients_N.to(expert.device), expert.embed(faces_NCHW))
    return F.normalize(sums_PD), torch.bincount(patients_N, minlength=patients)


def _prediction(
    expert: Expert, ranking: tuple[Ranked, ...], near: float, known: bool, photos: int, reasons: tuple[Reason, ...]
) -> Prediction:
    threshold = expert.calibration.nearness
    if not photos:
        return Prediction(Answer.UNUSABLE, (), None, threshold, 0, reasons)
    return Prediction(Answer.RANKED if known else Answer.UNKNOWN, ranking, near, threshold, photos, reasons)
