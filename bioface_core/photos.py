"""What is a set of photos? Three columns that share their leading axis and live on one device.

Legend: N photos, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

FACE_SIZE_PX = 112


@dataclass(frozen=True)
class PhotoSet:
    """Aligned faces with their class and patient; a data set and a batch are the same type.

    Attributes:
        photos_NCHW: uint8, 3 x 112 x 112, RGB.
        labels_N: int64 index of the class.
        patients_N: int64 index of the patient, meaningful inside one hospital only; it never leaves it.
    """

    photos_NCHW: Tensor
    labels_N: Tensor
    patients_N: Tensor

    def __post_init__(self) -> None:
        assert self.photos_NCHW.dtype == torch.uint8, self.photos_NCHW.dtype
        assert len(self.photos_NCHW) == len(self.labels_N) == len(self.patients_N), "columns differ in length"

    def __len__(self) -> int:
        return len(self.labels_N)

    def take(self, indices_M: Tensor) -> PhotoSet:
        """The rows at ``indices_M`` (int64 positions or a boolean mask of length N), in that order."""
        if indices_M.dtype == torch.bool:
            indices_M = indices_M.nonzero()[:, 0]
        columns = (self.photos_NCHW, self.labels_N, self.patients_N)
        return PhotoSet(*(column.index_select(0, indices_M) for column in columns))  # copies rows, not single bytes

    def to(self, device: torch.device | str) -> PhotoSet:
        """The same rows on another device."""
        return PhotoSet(self.photos_NCHW.to(device), self.labels_N.to(device), self.patients_N.to(device))

    def patients(self) -> int:
        """How many different patients there are."""
        return int(self.patients_N.unique().numel())


def concatenate(parts: list[PhotoSet]) -> PhotoSet:
    """One set from several; patients of different parts stay different people.

    Args:
        parts: at least one set, all on one device.

    Returns:
        The rows in order, patients renumbered from 0 without collisions.
    """
    patients, first_free = [], 0
    for part in parts:
        _, renumbered_N = part.patients_N.unique(return_inverse=True)
        patients.append(renumbered_N + first_free)
        first_free += part.patients()
    return PhotoSet(
        torch.cat([part.photos_NCHW for part in parts]),
        torch.cat([part.labels_N for part in parts]),
        torch.cat(patients),
    )


def first_photos(patients_N: Tensor) -> Tensor:
    """The position of each patient's first photo, int64 (P,), in the order of the patients' numbers."""
    patients_P, index_N = patients_N.unique(return_inverse=True)
    positions_N = torch.arange(len(patients_N), device=patients_N.device)
    first_P = torch.full_like(patients_P, len(patients_N))
    return first_P.scatter_reduce(0, index_N, positions_N, "amin")


def shuffled(photos: int, batch: int, randomness: torch.Generator) -> Iterator[Tensor]:
    """Positions of the photos of each step of one epoch: a fresh order, cut into nearly equal parts.

    Args:
        photos: N; 0 yields nothing.
        batch: the most photos in a step; no step is smaller by more than one than the largest.
        randomness: CPU generator.

    Yields:
        int64 (B,), on the CPU.
    """
    if photos:
        yield from torch.randperm(photos, generator=randomness).tensor_split(-(-photos // batch))


@dataclass(frozen=True)
class Demographics:
    """Who is on each photo, as far as it is known; for comparing groups, never for training.

    Attributes:
        age_months_N: float32, NaN where unknown.
        sex_N: int8, 0 female, 1 male, -1 unknown.
        ancestry_N: int16 index into the store's ``ancestries``, -1 unknown.
    """

    age_months_N: Tensor
    sex_N: Tensor
    ancestry_N: Tensor

    def take(self, indices_M: Tensor) -> Demographics:
        """The rows at ``indices_M``, in that order."""
        return Demographics(self.age_months_N[indices_M], self.sex_N[indices_M], self.ancestry_N[indices_M])

    @staticmethod
    def unknown(photos: int) -> Demographics:
        """Columns for ``photos`` photos of people of whom nothing is known."""
        return Demographics(
            torch.full((photos,), float("nan")),
            torch.full((photos,), -1, dtype=torch.int8),
            torch.full((photos,), -1, dtype=torch.int16),
        )
