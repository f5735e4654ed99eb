"""Is a face good enough to learn from, and if not, why? One reason per photo, from a fixed list.

What is measured is kept apart from what is asked of it: ``Findings`` are facts about photos, a ``Gate`` holds the
thresholds, ``judge`` compares the two.

Legend: N photos, C channels, H W pixels, L = 5 landmarks.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum

import torch
from torch import Tensor
from torch.nn import functional

LUMA_3 = torch.tensor([0.299, 0.587, 0.114])  # ITU-R BT.601
_NOSE_DEPTH = 0.45  # how far the tip of the nose stands out, as a share of the distance between the eyes
_BLUR_PX = 9  # width of the second blur, as its authors chose
_CENTRE = (..., slice(36, 108), slice(24, 88))  # eyes to mouth on an aligned face: no hair, no background


class Reason(StrEnum):
    """Why a photo is refused, in the order in which reasons are looked for."""

    NOT_AN_IMAGE = "not an image"
    UNSUPPORTED = "unsupported format"
    UNREADABLE = "unreadable"
    NO_FACE = "no face"
    SEVERAL_FACES = "several faces"
    TOO_SMALL = "face too small"
    EXTREME_POSE = "extreme pose"
    BLURRED = "blurred"
    DUPLICATE = "duplicate"


@dataclass(frozen=True)
class Gate:
    """What is asked of a photo.

    Attributes:
        probability: of the detector that it is a face. Real faces come with 0.99 and more.
        rival_probability: of another face that counts; below, the detector sees faces in curtains.
        rival_share: area of another face that counts, as a share of the main one: 0.25 is half as wide. A passer-by is
            smaller, a parent with a child on the lap is not.
        eye_distance_px: on the photo. The aligned face has 35; with fewer than 16 more than half of it is invented.
        yaw_deg: largest turn to the side. Beyond, the far half of the face is hidden.
        nose_height: least and greatest height of the tip of the nose, 0 at the eyes and 1 at the mouth. Frontal
            faces of adults lie between 0.33 and 0.74; the rest is left to syndromes with short noses and long philtra.
        blur: largest share of detail that blurring again would not remove. Sharp photos have 0.33 to 0.48; 0.67 is a
            blur of about two pixels of the aligned face.
    """

    probability: float = 0.9
    rival_probability: float = 0.95
    rival_share: float = 0.25
    eye_distance_px: float = 16.0
    yaw_deg: float = 40.0
    nose_height: tuple[float, float] = (0.15, 0.9)
    blur: float = 0.67


@dataclass(frozen=True)
class Findings:
    """What was found on photos: the main face of each, and how good it is. Without a face a row is zero.

    Attributes:
        faces_NCHW: uint8, aligned, 3 x 112 x 112.
        landmarks_NL2: float32, pixels of the photo as it was read.
        probability_N: float32, of the main face; 0 where there is none.
        rival_N: float32, area of the largest other likely face as a share of the main one's.
        eye_distance_N: float32, pixels of the photo as it was read.
        yaw_N: float32, degrees, above 0 where the nose points to the right edge of the photo.
        nose_height_N: float32, 0 at the eyes, 1 at the mouth.
        blur_N: float32, 0 sharp to 1.
    """

    faces_NCHW: Tensor
    landmarks_NL2: Tensor
    probability_N: Tensor
    rival_N: Tensor
    eye_distance_N: Tensor
    yaw_N: Tensor
    nose_height_N: Tensor
    blur_N: Tensor

    def __len__(self) -> int:
        return len(self.probability_N)

    def take(self, indices_M: Tensor) -> Findings:
        """The rows at ``indices_M``, in that order."""
        return Findings(**{name: column[indices_M] for name, column in self.columns().items()})

    def columns(self) -> dict[str, Tensor]:
        """Every column by its name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def concatenate(parts: list[Findings]) -> Findings:
    """The rows of at least one part, in order."""
    names = parts[0].columns()
    return Findings(**{name: torch.cat([part.columns()[name] for part in parts]) for name in names})


def judge(findings: Findings, gate: Gate) -> list[Reason | None]:
    """The first reason against each photo, None for the good ones.

    Duplicates are looked for by ``bioface_core.duplicates``, files that cannot be read never come so far.
    """
    low, high = gate.nose_height
    against = {
        Reason.NO_FACE: findings.probability_N < gate.probability,
        Reason.SEVERAL_FACES: findings.rival_N >= gate.rival_share,
        Reason.TOO_SMALL: findings.eye_distance_N < gate.eye_distance_px,
        Reason.EXTREME_POSE: (findings.yaw_N.abs() > gate.yaw_deg)
        | (findings.nose_height_N < low)
        | (findings.nose_height_N > high),
        Reason.BLURRED: findings.blur_N > gate.blur,
    }
    verdicts = zip(*(column_N.tolist() for column_N in against.values()), strict=True)
    return [next((reason for reason, holds in zip(against, row, strict=True) if holds), None) for row in verdicts]


def eye_distance(landmarks_NL2: Tensor) -> Tensor:
    """Pixels between the eyes, (N,)."""
    distance_N: Tensor = (landmarks_NL2[:, 1] - landmarks_NL2[:, 0]).norm(dim=1)
    return distance_N


def pose(landmarks_NL2: Tensor) -> tuple[Tensor, Tensor]:
    """How far a head is turned and nods, from where its nose lies between eyes and mouth; tilt does not count.

    Args:
        landmarks_NL2: pixels.

    Returns:
        Yaw in degrees, as for a nose that stands out by 0.45 eye distances, and the height of the nose from 0 at the
        eyes to 1 at the mouth, (N,) each.
    """
    left_eye, right_eye, nose, left_mouth, right_mouth = landmarks_NL2.unbind(1)
    across_N2 = functional.normalize(right_eye - left_eye + right_mouth - left_mouth, dim=1)
    down_N2 = torch.stack([-across_N2[:, 1], across_N2[:, 0]], 1)
    eyes, mouth = (left_eye + right_eye) / 2, (left_mouth + right_mouth) / 2
    aside_N = ((nose - (eyes + mouth) / 2) * across_N2).sum(1) / ((right_eye - left_eye) * across_N2).sum(1)
    height_N = ((nose - eyes) * down_N2).sum(1) / ((mouth - eyes) * down_N2).sum(1)
    return torch.rad2deg(torch.atan(aside_N / _NOSE_DEPTH)), height_N


def blur(faces_NCHW: Tensor) -> Tensor:
    """How little blurring again would change a face: 0 sharp, 1 nothing left to blur.

    Contrast and brightness cancel out. Of the two directions the worse counts, so that motion is found as well.

    Args:
        faces_NCHW: uint8, aligned.

    Returns:
        float32 (N,).

    Source: Crete et al. 2007, The Blur Effect: Perception and Estimation with a New No-Reference Blur Metric.
    """
    luma_NHW = torch.einsum("nchw,c->nhw", faces_NCHW.float(), LUMA_3.to(faces_NCHW.device))[_CENTRE]
    return torch.maximum(_blur_across(luma_NHW), _blur_across(luma_NHW.mT))


def _blur_across(luma_NHW: Tensor) -> Tensor:
    """The share of differences between neighbours in a row that a second blur along the row leaves."""
    padding = (_BLUR_PX // 2, _BLUR_PX // 2)
    blurred_NHW = functional.avg_pool1d(functional.pad(luma_NHW, padding, mode="replicate"), _BLUR_PX, stride=1)
    before_NHW, after_NHW = luma_NHW.diff(dim=2).abs(), blurred_NHW.diff(dim=2).abs()
    removed_N = (before_NHW - after_NHW).clamp(min=0).sum((1, 2))
    return 1 - removed_N / before_NHW.sum((1, 2)).clamp(min=1e-6)
