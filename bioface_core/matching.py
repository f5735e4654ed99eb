"""How well does a model match photos with a gallery? GestaltMatcher's protocol: the nearest photo of each syndrome.

Every photo of a test set is compared with every photo of a gallery. A syndrome counts once, at its photo that is
nearest by cosine; of a photo, the rank of its own syndrome is asked for. Top-k is the share of a syndrome's test photos
with a rank within the first k, averaged over the test set's syndromes.

    frequent    syndromes that the model was trained on; their training photos are the gallery
    rare        syndromes that it was not; in several splits, some of their patients are the gallery, others the test

Four tables: frequent and rare test photos, each against their own gallery and against both galleries together. Over the
splits, rates are averaged.

A test photo whose syndrome has no photo in the gallery is a miss at every k. Photos of one patient are no independent
witnesses: intervals are made wider by the square root of photos per patient, the most that this can cost.

Legend: N test photos, M gallery photos, D embedding, K syndromes.

Source: Hsieh et al. 2022, "GestaltMatcher facilitates rare disease matching using facial phenotype descriptors", Nature
Genetics 54; Hustinx et al. 2023, WACV (the four tables, and unified galleries by split). The intervals are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bioface_core.evaluate import Rate, count, macro_top, mean_rate

TOPS = (1, 5, 10, 30)
_BATCH = 256


@dataclass(frozen=True)
class Portraits:
    """Embedded photos.

    Attributes:
        embeddings_ND: unit length.
        labels_N: int64, the syndrome of each; numbered the same in every set.
        patients_N: int64, whose photo it is.
    """

    embeddings_ND: Tensor
    labels_N: Tensor
    patients_N: Tensor

    def __len__(self) -> int:
        return len(self.labels_N)

    def take(self, rows_M: Tensor) -> Portraits:
        """The photos at ``rows_M``."""
        return Portraits(self.embeddings_ND[rows_M], self.labels_N[rows_M], self.patients_N[rows_M])


@dataclass(frozen=True)
class Split:
    """Rows of photos that are a gallery, and rows that are tested against it; int64 each."""

    gallery_M: Tensor
    test_N: Tensor


@dataclass(frozen=True)
class Matched:
    """One table of the protocol.

    Attributes:
        test: name of the test set.
        gallery: name of the gallery.
        gallery_photos: mean over the splits.
        test_photos: mean over the splits.
        syndromes: in the gallery, mean over the splits.
        top: k -> macro Top-k.
    """

    test: str
    gallery: str
    gallery_photos: float
    test_photos: float
    syndromes: float
    top: dict[int, Rate]


def nearest(test: Portraits, gallery: Portraits, classes: int) -> Tensor:
    """Cosine of each test photo to the nearest gallery photo of each syndrome, (N, K); minus infinity where none is.

    Args:
        test: N photos.
        gallery: M photos.
        classes: K; labels are below.
    """
    return torch.cat(
        [_nearest(part_ND, gallery, classes) for part_ND in test.embeddings_ND.split(_BATCH)]
        or [torch.zeros(0, classes)]
    )


def match(test: Portraits, gallery: Portraits) -> dict[int, Rate]:
    """Macro Top-k of test photos against a gallery, by k.

    Args:
        test: N photos.
        gallery: M photos, of other patients.

    Returns:
        For each of ``TOPS`` a rate, whose ``patients`` are test photos here.
    """
    present_K, labels = torch.cat([test.labels_N, gallery.labels_N]).unique(return_inverse=True)
    own_N, other_M = labels.split([len(test), len(gallery)])
    # Syndromes of nobody at the end: where its own has no photo, a rank beyond every k.
    classes = len(present_K) + max(TOPS)
    nearest_NK = nearest(test, Portraits(gallery.embeddings_ND, other_M, gallery.patients_N), classes)
    counts = count(nearest_NK, own_N)
    each = len(test) / max(1, len(test.patients_N.unique()))
    return {k: _wider(macro_top(counts, k), each) for k in TOPS}


def protocol(photos: Portraits, frequent: Split, rare: Sequence[Split]) -> tuple[Matched, ...]:
    """The four tables.

    Args:
        photos: all of them.
        frequent: the frequent syndromes' gallery and test photos.
        rare: the same of the rare syndromes, split by split; none leaves only the first table.
    """
    both = [Split(torch.cat([frequent.gallery_M, split.gallery_M]), frequent.test_N) for split in rare]
    rare_both = [Split(one.gallery_M, split.test_N) for one, split in zip(both, rare, strict=True)]
    tables = (
        ("frequent", "frequent", [frequent]),
        ("rare", "rare", list(rare)),
        ("frequent", "frequent + rare", both),
        ("rare", "frequent + rare", rare_both),
    )
    return tuple(_matched(test, gallery, photos, splits) for test, gallery, splits in tables if splits)


def _matched(test: str, gallery: str, photos: Portraits, splits: list[Split]) -> Matched:
    found = [match(photos.take(split.test_N), photos.take(split.gallery_M)) for split in splits]
    syndromes = [len(photos.labels_N[split.gallery_M].unique()) for split in splits]
    return Matched(
        test,
        gallery,
        sum(len(split.gallery_M) for split in splits) / len(splits),
        sum(len(split.test_N) for split in splits) / len(splits),
        sum(syndromes) / len(splits),
        {k: mean_rate([rates[k] for rates in found]) for k in TOPS},
    )


def _nearest(part_ND: Tensor, gallery: Portraits, classes: int) -> Tensor:
    cosines_NM = part_ND @ gallery.embeddings_ND.T
    none_NK = cosines_NM.new_full((len(part_ND), classes), -math.inf)
    return none_NK.scatter_reduce(1, gallery.labels_N.expand(len(part_ND), -1), cosines_NM, "amax")


def _wider(rate: Rate, photos_per_patient: float) -> Rate:
    """The interval as if all photos of a patient said the same."""
    factor = math.sqrt(photos_per_patient)
    low = max(0.0, rate.value - factor * (rate.value - rate.low))
    high = min(1.0, rate.value + factor * (rate.high - rate.value))
    return Rate(rate.value, low, high, rate.patients) if rate.patients else rate
