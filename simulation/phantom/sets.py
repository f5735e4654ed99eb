"""Which sets of phantoms can be had? Single photos, patients of syndromes, and healthy people to tell apart.

A person number and a seed make a face, whatever the call. Patients are numbered from 0 in blocks per syndrome, healthy
people from ``HEALTHY`` on, so the two never meet.

Legend: N photos, P patients, K syndromes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from bioface_core.errors import ConfigError
from bioface_core.photos import FACE_SIZE_PX, Demographics, PhotoSet
from bioface_core.sections import PhantomDials
from bioface_core.syndromes import Syndrome, catalogue
from simulation.phantom.photograph import Phantoms, Studio, draw, photograph
from simulation.phantom.site import NO_SHIFT, SiteShift

HEALTHY = 1 << 40  # the first number of healthy people
RESTYLED = 0.5  # share of photos with another haircut, glasses or tan
_BLOCK = 1 << 24  # more patients than a syndrome can have
# Photos computed at once: their pictures fit into the processor's cache. The last batch is filled up with copies, since
# arithmetic on fewer rows may be vectorised, and so rounded, in another way.
_BATCH = 8

Progress = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    pass


def render(
    seed: int,
    people_N: Tensor,
    photos_N: Tensor,
    syndromes_N: Sequence[Syndrome | None] | None = None,
    dials: PhantomDials | None = None,
    shift: SiteShift = NO_SHIFT,
    size_px: int = 160,
    restyled: float = RESTYLED,
    on_photos: Progress = _silent,
) -> Phantoms:
    """Raw photographs, as a camera would take them.

    Args:
        seed: of the whole set, 0 <= seed < 2**63.
        people_N: int64 number of the person on each photo, not negative.
        photos_N: int64 number of the photo among that person's, not negative.
        syndromes_N: each row's syndrome, None for the healthy; left out, all are healthy.
        dials: severity, nuisance and spread.
        shift: the hospital's camera, light and ages.
        size_px: side of the photos, a multiple of 8.
        restyled: share of photos with another haircut, glasses or tan.
        on_photos: called with (photos made, photos in all).

    Returns:
        N photos with their true landmarks; each depends on its own row alone.

    Raises:
        ConfigError: ``size_px`` is no multiple of 8, or a syndrome has an effect phantoms do not know.
    """
    if size_px < 64 or size_px % 8:
        raise ConfigError(f"size_px must be a multiple of 8 from 64 on, not {size_px}")
    studio = Studio(seed, dials or PhantomDials(), shift, restyled, size_px, aligned=False)
    return _take_photos(studio, people_N, photos_N, syndromes_N, on_photos)


def aligned(
    seed: int,
    people_N: Tensor,
    photos_N: Tensor,
    syndromes_N: Sequence[Syndrome | None] | None = None,
    dials: PhantomDials | None = None,
    shift: SiteShift = NO_SHIFT,
    restyled: float = RESTYLED,
    on_photos: Progress = _silent,
) -> Phantoms:
    """The same people and shots, seen straight through the 112 x 112 crop that alignment by the true landmarks gives.

    Nothing is rendered that alignment would cut away, and nothing is resampled twice. For the arguments see ``render``.

    Returns:
        N aligned photos, landmarks on them.
    """
    studio = Studio(seed, dials or PhantomDials(), shift, restyled, FACE_SIZE_PX, aligned=True)
    return _take_photos(studio, people_N, photos_N, syndromes_N, on_photos)


def patients(
    seed: int,
    syndrome_keys: Sequence[str],
    patients_per_syndrome: int | Mapping[str, int],
    photos_per_patient: int,
    dials: PhantomDials | None = None,
    shift: SiteShift = NO_SHIFT,
    on_photos: Progress = _silent,
) -> tuple[PhotoSet, Demographics]:
    """A set of patients. More patients or photos, or other syndromes beside them, leave the first ones as they are.

    Args:
        seed: of the simulation.
        syndrome_keys: keys of configs/syndromes.yaml; labels index them.
        patients_per_syndrome: one number, or one for each key.
        photos_per_patient: at least 1.
        dials: severity, nuisance and spread.
        shift: one shift for all; for hospitals of their own see ``photograph_patients``.
        on_photos: called with (photos made, photos in all).

    Returns:
        Aligned photos, patient after patient, and who is on them.

    Raises:
        ConfigError: an unknown syndrome.
    """
    people_P, labels_P = patient_numbers(syndrome_keys, patients_per_syndrome)
    return photograph_patients(
        seed, syndrome_keys, people_P, labels_P, photos_per_patient, dials, shift, on_photos=on_photos
    )


def patient_numbers(
    syndrome_keys: Sequence[str], patients_per_syndrome: int | Mapping[str, int]
) -> tuple[Tensor, Tensor]:
    """The person numbers of patients and their labels, int64 (P,) each, syndrome after syndrome.

    Raises:
        ConfigError: an unknown syndrome.
    """
    known = list(catalogue().syndromes)
    catalogue().pick(syndrome_keys)
    people, labels = [], []
    for label, key in enumerate(syndrome_keys):
        count = patients_per_syndrome if isinstance(patients_per_syndrome, int) else patients_per_syndrome[key]
        people.append(known.index(key) * _BLOCK + torch.arange(count))
        labels.append(torch.full((count,), label))
    return torch.cat(people), torch.cat(labels)


def photograph_patients(
    seed: int,
    syndrome_keys: Sequence[str],
    people_P: Tensor,
    labels_P: Tensor,
    photos_per_patient: int,
    dials: PhantomDials | None = None,
    shift: SiteShift = NO_SHIFT,
    on_photos: Progress = _silent,
) -> tuple[PhotoSet, Demographics]:
    """Photographs some of the patients of ``patient_numbers``, for instance one hospital's with its own shift.

    Args:
        seed: of the simulation.
        syndrome_keys: what ``labels_P`` index.
        people_P: person numbers.
        labels_P: their syndromes.
        photos_per_patient: at least 1.
        dials: severity, nuisance and spread.
        shift: this hospital's camera, light and ages.
        on_photos: called with (photos made, photos in all).

    Returns:
        Aligned photos; ``patients_N`` counts the rows of ``people_P`` from 0.

    Raises:
        ConfigError: an unknown syndrome.
    """
    syndromes_K = catalogue().pick(syndrome_keys)
    rows_N, photos_N = _each(len(people_P), photos_per_patient)
    labels_N = labels_P[rows_N]
    syndromes_N = [syndromes_K[label] for label in labels_N.tolist()]
    phantoms = aligned(seed, people_P[rows_N], photos_N, syndromes_N, dials, shift, on_photos=on_photos)
    return PhotoSet(phantoms.photos_NCHW, labels_N, rows_N), phantoms.demographics


def identities(
    seed: int,
    people: int,
    photos_per_person: int,
    dials: PhantomDials | None = None,
    on_photos: Progress = _silent,
) -> PhotoSet:
    """Healthy people for stage 1; the label is the person, 0..people-1, and nobody is a patient of the same seed."""
    return healthy(seed, people, photos_per_person, dials, on_photos=on_photos)[0]


def healthy(
    seed: int,
    people: int,
    photos_per_person: int,
    dials: PhantomDials | None = None,
    shift: SiteShift = NO_SHIFT,
    on_photos: Progress = _silent,
) -> tuple[PhotoSet, Demographics]:
    """As ``identities``, with who is on the photos."""
    rows_N, photos_N = _each(people, photos_per_person)
    phantoms = aligned(seed, rows_N + HEALTHY, photos_N, None, dials, shift, on_photos=on_photos)
    return PhotoSet(phantoms.photos_NCHW, rows_N, rows_N.clone()), phantoms.demographics


def _each(people: int, photos: int) -> tuple[Tensor, Tensor]:
    """Row of the person and number of the photo: every photo of the first person, then of the next."""
    return torch.arange(people).repeat_interleave(photos), torch.arange(photos).repeat(people)


def _take_photos(
    studio: Studio,
    people_N: Tensor,
    photos_N: Tensor,
    syndromes_N: Sequence[Syndrome | None] | None,
    on_photos: Progress,
) -> Phantoms:
    total = len(people_N)
    everyone: Sequence[Syndrome | None] = [None] * total if syndromes_N is None else syndromes_N
    parts: list[Phantoms] = []
    for first in range(0, total, _BATCH):
        rows = [min(row, total - 1) for row in range(first, first + _BATCH)]
        sitting = draw(studio, people_N[rows], photos_N[rows], [everyone[row] for row in rows])
        parts.append(photograph(sitting, studio))
        on_photos(rows[-1] + 1, total)
    return _join(parts, total, studio.size_px)


def _join(parts: list[Phantoms], total: int, size_px: int) -> Phantoms:
    """One set from batches, without what filled up the last of them."""
    if not parts:
        return Phantoms(
            torch.empty(0, 3, size_px, size_px, dtype=torch.uint8), torch.empty(0, 5, 2), Demographics.unknown(0)
        )
    columns = [part.demographics for part in parts]
    demographics = Demographics(
        torch.cat([column.age_months_N for column in columns])[:total],
        torch.cat([column.sex_N for column in columns])[:total],
        torch.cat([column.ancestry_N for column in columns])[:total],
    )
    photos_NCHW = torch.cat([part.photos_NCHW for part in parts])[:total]
    return Phantoms(photos_NCHW, torch.cat([part.landmarks_NL2 for part in parts])[:total], demographics)
