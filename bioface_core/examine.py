"""Which face is meant on each photo, and how good is it? Detection at a size that suffices, alignment, measures.

The detector looks at faces through windows of at most 48 pixels, so a portrait is searched at 256 pixels; only where no
face is found, or a small one, is it searched again at three times that. The aligned face is always cut from the photo
as it was read.

Legend: N photos, C channels, H W pixels, L = 5 landmarks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from bioface_core.align import align
from bioface_core.faces import Detections, Detector
from bioface_core.photos import FACE_SIZE_PX
from bioface_core.quality import Findings, Gate, blur, eye_distance, pose

GLANCE_PX, STUDY_PX = 256, 768  # longer side of a photo in the first and in the second search
_LARGE_ENOUGH_PX = 40.0  # a face of this width fills the detector's last window well enough
_STEP_PX = 32  # photos are padded to multiples of this, so that nearly equal shapes share a batch
_GREY = 128  # what the detector takes for nothing


@dataclass(frozen=True)
class _Face:
    """The main face of a photo, in pixels of that photo."""

    landmarks_L2: Tensor
    probability: float
    rival: float
    searched_width_px: float


def examine(photos: Sequence[Tensor], detector: Detector, gate: Gate) -> Findings:
    """Looks for the main face of each photo and measures it.

    Args:
        photos: uint8 (C, H, W) each, of any sizes; together they should fit into memory a few times.
        detector: the networks.
        gate: its probabilities say what counts as a face.

    Returns:
        One row per photo.
    """
    faces = _search(photos, detector, gate, GLANCE_PX)
    again = [n for n, face in enumerate(faces) if _worth_a_second_look(face, photos[n])]
    for n, face in zip(again, _search([photos[n] for n in again], detector, gate, STUDY_PX), strict=True):
        faces[n] = face or faces[n]
    return _measure(photos, faces)


def _worth_a_second_look(face: _Face | None, photo_CHW: Tensor) -> bool:
    small = face is None or face.searched_width_px < _LARGE_ENOUGH_PX
    return small and max(photo_CHW.shape[1:]) > GLANCE_PX


def _search(photos: Sequence[Tensor], detector: Detector, gate: Gate, longest_px: int) -> list[_Face | None]:
    """The main face of each photo, searched at ``longest_px``; photos of one shape go through together."""
    shapes: dict[tuple[int, int], list[int]] = defaultdict(list)
    small = [_scaled(photo, longest_px) for photo in photos]
    for n, photo_CHW in enumerate(small):
        shapes[_padded(photo_CHW.shape[1]), _padded(photo_CHW.shape[2])].append(n)
    faces: list[_Face | None] = [None] * len(photos)
    for shape, members in shapes.items():
        found = detector.detect(torch.stack([_pad(small[n], shape) for n in members]))
        for place, n in enumerate(members):
            scale_2 = _size(photos[n]) / _size(small[n])
            faces[n] = _main_face(found, place, scale_2, gate)
    return faces


def _scaled(photo_CHW: Tensor, longest_px: int) -> Tensor:
    """The photo with at most ``longest_px`` on its longer side; none is enlarged."""
    scale = longest_px / max(photo_CHW.shape[1:])
    if scale >= 1:
        return photo_CHW
    size = [max(1, round(side * scale)) for side in photo_CHW.shape[1:]]
    return functional.interpolate(photo_CHW[None], size, mode="bilinear", antialias=True)[0]


def _padded(side: int) -> int:
    return -(-side // _STEP_PX) * _STEP_PX


def _pad(photo_CHW: Tensor, shape: tuple[int, int]) -> Tensor:
    """The photo in the top left corner of a grey canvas."""
    canvas_CHW = photo_CHW.new_full((photo_CHW.shape[0], *shape), _GREY)
    canvas_CHW[:, : photo_CHW.shape[1], : photo_CHW.shape[2]] = photo_CHW
    return canvas_CHW


def _size(photo_CHW: Tensor) -> Tensor:
    """Width and height."""
    return torch.tensor(photo_CHW.shape[:0:-1], dtype=torch.float32)


def _main_face(found: Detections, photo: int, scale_2: Tensor, gate: Gate) -> _Face | None:
    """The largest likely face of one photo of a batch."""
    on_photo_B = (found.photo_B == photo) & (found.probability_B >= gate.probability)
    boxes_B4, score_B = found.boxes_B4[on_photo_B], found.probability_B[on_photo_B]
    if not len(score_B):
        return None
    area_B = (boxes_B4[:, 2:] - boxes_B4[:, :2]).prod(1)
    main = int(area_B.argmax())
    rivals_B = area_B * (score_B >= gate.rival_probability)
    rivals_B[main] = 0
    landmarks_L2 = (found.landmarks_BL2[on_photo_B][main] + 0.5) * scale_2 - 0.5
    width_px = float(boxes_B4[main, 2] - boxes_B4[main, 0])
    return _Face(landmarks_L2, float(score_B[main]), float(rivals_B.max() / area_B[main]), width_px)


def _measure(photos: Sequence[Tensor], faces: list[_Face | None]) -> Findings:
    """Rows for all photos from the faces that were found."""
    rows = [n for n, face in enumerate(faces) if face is not None]
    found = [face for face in faces if face is not None]
    landmarks_ML2 = torch.stack([face.landmarks_L2 for face in found]) if found else torch.zeros(0, 5, 2)
    aligned_MCHW = align([photos[n] for n in rows], landmarks_ML2) if found else _no_faces(0)
    yaw_M, nose_height_M = pose(landmarks_ML2)

    def fill(column_M: Tensor) -> Tensor:
        column_N = column_M.new_zeros((len(photos), *column_M.shape[1:]))
        column_N[rows] = column_M
        return column_N

    return Findings(
        faces_NCHW=fill(aligned_MCHW),
        landmarks_NL2=fill(landmarks_ML2),
        probability_N=fill(torch.tensor([face.probability for face in found])),
        rival_N=fill(torch.tensor([face.rival for face in found])),
        eye_distance_N=fill(eye_distance(landmarks_ML2)),
        yaw_N=fill(yaw_M),
        nose_height_N=fill(nose_height_M),
        blur_N=fill(blur(aligned_MCHW)),
    )


def _no_faces(photos: int) -> Tensor:
    return torch.zeros((photos, 3, FACE_SIZE_PX, FACE_SIZE_PX), dtype=torch.uint8)
