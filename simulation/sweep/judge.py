"""How good is a model of a sweep? Asked about patients of no hospital: rates, angles, and syndromes it never learned.

Legend: N photos, one of each patient; K syndromes, U unseen syndromes, D embedding, n values of the vector.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import torch
import torch.nn.functional as F
from torch import Tensor

from bioface_core.config import Study
from bioface_core.evaluate import count, macro_top
from bioface_core.learner import Learner
from bioface_core.photos import Demographics, PhotoSet, concatenate
from bioface_core.store import Store, read_store, write_store
from bioface_core.syndromes import catalogue
from simulation import phantom
from simulation.hospitals import hospital_names
from simulation.sweep.plan import Judging
from simulation.sweep.shared import made_once

_STRANGERS = 1 << 21  # added to a patient's number: at no hospital of any sweep


@dataclass(frozen=True)
class Measures:
    """What is told of a model; rates are macro averages over classes, 0 to 1.

    Attributes:
        top1: share of the patients whose syndrome comes first.
        top3: among the first three.
        top5: among the first five.
        angle_ratio: mean angle between the mean embeddings of two syndromes, over the mean angle of a patient to the
            mean of the own syndrome: how far apart syndromes are beside how tight each is.
        unseen_top1: of syndromes that were not learned, among themselves, by the nearest mean of a few enrolled
            patients.
    """

    top1: float
    top3: float
    top5: float
    angle_ratio: float
    unseen_top1: float

    @staticmethod
    def mean(several: list[Measures]) -> Measures:
        """Their mean, measure by measure."""
        columns = [asdict(one) for one in several]
        return Measures(**{name: mean(column[name] for column in columns) for name in columns[0]})


@dataclass(frozen=True)
class Judge:
    """Patients to be asked about, and how.

    Attributes:
        known: of the study's syndromes.
        unseen: of the others, labels counting them; of each the first ``enrolled`` are the gallery.
        enrolled: of each unseen syndrome.
    """

    known: PhotoSet
    unseen: PhotoSet
    enrolled: int

    def measure(self, learner: Learner, vector: Tensor, prototypes_KD: Tensor | None = None) -> Measures:
        """Judges a model.

        Args:
            learner: of the study.
            vector: float32 (n,).
            prototypes_KD: rank by cosine to these in place of the model's own.
        """
        embeddings_ND = learner.embed(vector, self.known)
        if prototypes_KD is None:
            scores_NK = learner.scores(vector, embeddings_ND)
        else:
            scores_NK = embeddings_ND @ F.normalize(prototypes_KD).T
        counts = count(scores_NK, self.known.labels_N)
        top1, top3, top5 = (macro_top(counts, k).value for k in (1, 3, 5))
        ratio = angle_ratio(embeddings_ND, self.known.labels_N)
        unseen_top1 = gallery_top1(learner.embed(vector, self.unseen), self.unseen.labels_N, self.enrolled)
        return Measures(top1, top3, top5, ratio, unseen_top1)


def shared_judge(root: Path, study: Study, judging: Judging) -> Judge:
    """The judge of a study, whose patients are drawn once for all that share them."""
    settings = study.simulation
    shift = settings.partition.site_shift
    cameras = len(hospital_names(study)) if shift else 1
    dials = settings.phantoms.model_dump(mode="json")
    follows_from = [study.seed, study.syndromes, judging.model_dump(exclude={"enrolled"}), dials, shift, cameras]

    def make(fresh: Path) -> None:
        for name, keys, each in (
            ("known", study.syndromes, judging.patients),
            ("unseen", catalogue().unseen, judging.unseen),
        ):
            _write(fresh / name, keys, _patients(study, keys, each, cameras))

    folder = made_once(root, "judge", follows_from, make)
    return Judge(read_store(folder / "known").photos, read_store(folder / "unseen").photos, judging.enrolled)


def angle_ratio(embeddings_ND: Tensor, labels_N: Tensor) -> float:
    """Mean angle between class means over mean angle to one's own class mean.

    Args:
        embeddings_ND: unit embeddings.
        labels_N: int64, at least two classes.
    """
    means_KD = class_means(embeddings_ND, labels_N)
    between_KK = _angles(means_KD @ means_KD.T)
    apart = between_KK[~torch.eye(len(means_KD), dtype=torch.bool)].mean()
    own_N = _angles((embeddings_ND * means_KD[labels_N]).sum(1))
    return float(apart / own_N.mean())


def gallery_top1(embeddings_ND: Tensor, labels_N: Tensor, enrolled: int) -> float:
    """Macro Top-1 among syndromes whose first ``enrolled`` patients stand for them, of their other patients."""
    rank_N = torch.cat([torch.arange(int(number)) for number in torch.bincount(labels_N)])
    order_N = labels_N.argsort(stable=True)
    embeddings_ND, labels_N = embeddings_ND[order_N], labels_N[order_N]
    inside_N = rank_N < enrolled
    means_UD = class_means(embeddings_ND[inside_N], labels_N[inside_N])
    return macro_top(count(embeddings_ND[~inside_N] @ means_UD.T, labels_N[~inside_N]), 1).value


def class_means(embeddings_ND: Tensor, labels_N: Tensor, classes: int | None = None) -> Tensor:
    """The mean embedding of each class, unit length (K, D); a class without photos has zeros."""
    classes = int(labels_N.max()) + 1 if classes is None else classes
    sums_KD = torch.zeros(classes, embeddings_ND.shape[1]).index_add_(0, labels_N, embeddings_ND)
    return F.normalize(sums_KD)


def _angles(cosines: Tensor) -> Tensor:
    """Radians."""
    return cosines.clamp(-1, 1).arccos()


def _patients(study: Study, keys: tuple[str, ...], each: int, cameras: int) -> PhotoSet:
    """One photo of each patient; where hospitals have cameras of their own, they take turns."""
    people_P, labels_P = phantom.patient_numbers(keys, each)
    camera_P = torch.arange(len(people_P)) % cameras
    shift = study.simulation.partition.site_shift
    parts = [
        phantom.photograph_patients(
            study.seed,
            keys,
            people_P[camera_P == camera] + _STRANGERS,
            labels_P[camera_P == camera],
            1,
            study.simulation.phantoms,
            phantom.site_shift(study.seed, camera, shift),
        )[0]
        for camera in range(cameras)
    ]
    return concatenate(parts)


def _write(folder: Path, keys: tuple[str, ...], photos: PhotoSet) -> None:
    everybody_N = torch.ones(len(photos), dtype=torch.bool)
    write_store(folder, Store(keys, photos, everybody_N, Demographics.unknown(len(photos))))
