"""How does a face get from a photo onto the 112 x 112 crop that every model here sees? By five landmarks.

The crop is found by the similarity transform (turn, size, shift; no shear, no mirror) that brings the landmarks
closest to the template which face recognition has shared since ArcFace. Pixel centres are whole numbers, on the photo
and on the crop.

Legend: N photos, C channels, H W pixels, L = 5 landmarks (left eye, right eye, nose, left and right corner of the
mouth, as seen on the photo).

Source: Umeyama 1991 (least squares); Deng et al. 2019, ArcFace (template).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from bioface_core.photos import FACE_SIZE_PX

TEMPLATE_L2 = torch.tensor(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
_CORNERS_42 = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]) * (FACE_SIZE_PX - 1)


def similarity(landmarks_NL2: Tensor) -> Tensor:
    """The similarity transforms that bring landmarks closest to the template.

    With points as complex numbers the least-squares solution is a quotient: no singular value decomposition, and no
    mirror image can come out.

    Args:
        landmarks_NL2: float, pixels on each photo.

    Returns:
        (N, 2, 3): ``matrix @ (x, y, 1)`` of a photo's pixel is its place on the crop.
    """
    template_L2 = TEMPLATE_L2.to(landmarks_NL2)
    photo_N12, crop_12 = landmarks_NL2.mean(1, keepdim=True), template_L2.mean(0, keepdim=True)
    x, y = (landmarks_NL2 - photo_N12).unbind(2)
    u, v = (template_L2 - crop_12).unbind(1)
    spread_N = (x * x + y * y).sum(1)
    cosine_N, sine_N = (x * u + y * v).sum(1) / spread_N, (x * v - y * u).sum(1) / spread_N
    turn_N22 = torch.stack([cosine_N, -sine_N, sine_N, cosine_N], 1).unflatten(1, (2, 2))
    return torch.cat([turn_N22, crop_12[..., None] - turn_N22 @ photo_N12.mT], 2)


def transform(matrices_N23: Tensor, points_NL2: Tensor) -> Tensor:
    """Where points come to lie, (N, L, 2)."""
    return points_NL2 @ matrices_N23[:, :, :2].mT + matrices_N23[:, None, :, 2]


def invert(matrices_N23: Tensor) -> Tensor:
    """The transforms from the crop back to the photo, (N, 2, 3)."""
    back_N22 = torch.linalg.inv(matrices_N23[:, :, :2])
    return torch.cat([back_N22, -back_N22 @ matrices_N23[:, :, 2:]], 2)


def align(photos: Tensor | Sequence[Tensor], landmarks_NL2: Tensor) -> Tensor:
    """The aligned faces.

    What is smaller on the crop than on the photo is averaged, not skipped: halved as often as it can be, then sampled
    with two points per pixel and axis. What the photo does not show stays black, as where recognisers were trained.

    Args:
        photos: uint8 (N, C, H, W), or N photos (C, H, W) of different sizes.
        landmarks_NL2: float, pixels on each photo.

    Returns:
        uint8 (N, C, 112, 112).
    """
    if not isinstance(photos, Tensor):
        return torch.cat([_align_one(photo, points_L2) for photo, points_L2 in zip(photos, landmarks_NL2, strict=True)])
    levels_N = _levels(similarity(landmarks_NL2))
    faces_NCHW = photos.new_empty((len(photos), photos.shape[1], FACE_SIZE_PX, FACE_SIZE_PX))
    for level in levels_N.unique().tolist():
        rows_M = (levels_N == level).nonzero().flatten()
        whole = len(rows_M) == len(photos)
        faces_NCHW[rows_M] = _align_alike(photos if whole else photos[rows_M], landmarks_NL2[rows_M], level)
    return faces_NCHW


def _align_one(photo_CHW: Tensor, landmarks_L2: Tensor) -> Tensor:
    """One face, (1, C, 112, 112); of a large photo only the part around the face is touched."""
    matrix_123 = similarity(landmarks_L2[None])
    cell = _cell(int(_levels(matrix_123)))
    corners_42 = transform(invert(matrix_123), _CORNERS_42.to(landmarks_L2)[None])[0]
    size_2 = torch.tensor(photo_CHW.shape[:0:-1])
    # The window starts where a cell of the whole photo would, so that it is averaged as the whole would be.
    start_2 = (corners_42.amin(0) / cell - 2).floor().long().clamp(min=0).minimum((size_2 - 1) // cell) * cell
    stop_2 = (corners_42.amax(0) + 3 * cell).ceil().long().minimum(size_2).maximum(start_2 + 1)
    (left, top), (right, bottom) = start_2.tolist(), stop_2.tolist()
    return align(photo_CHW[None, :, top:bottom, left:right], (landmarks_L2 - start_2)[None])


def _levels(matrices_N23: Tensor) -> Tensor:
    """How much larger a face is on its photo than on the crop, int64 (N,): 0 not at all, 1 up to twice, 2 up to 4."""
    photo_pixels_N: Tensor = 1 / torch.linalg.det(matrices_N23[:, :, :2]).sqrt()
    return (photo_pixels_N.log2().floor().long() + 1).clamp(min=0)


def _cell(level: int) -> int:
    """Side of the square of pixels that is averaged into one before a photo of this level is sampled."""
    return 1 << max(level - 1, 0)


def _align_alike(photos_NCHW: Tensor, landmarks_NL2: Tensor, level: int) -> Tensor:
    """Faces of photos of one level: halved until at most twice as fine as the crop, then sampled."""
    cell = _cell(level)
    pixels_NCHW = photos_NCHW.to(landmarks_NL2.dtype)
    if cell > 1:
        pixels_NCHW = functional.avg_pool2d(pixels_NCHW, cell, ceil_mode=True, count_include_pad=False)
    matrices_N23 = similarity((landmarks_NL2 + 0.5) / cell - 0.5)
    faces_NCHW = _sample(pixels_NCHW, matrices_N23, 2 if level else 1)
    return faces_NCHW.round_().clamp_(0, 255).to(torch.uint8)


def _sample(pixels_NCHW: Tensor, matrices_N23: Tensor, points: int) -> Tensor:
    """Reads the crop off the photos, bilinearly, with ``points`` x ``points`` samples in each pixel."""
    height, width = pixels_NCHW.shape[2:]
    place_M = (torch.arange(FACE_SIZE_PX * points, device=pixels_NCHW.device) + 0.5) / points - 0.5
    grid_P2 = torch.stack(torch.meshgrid(place_M, place_M, indexing="xy"), 2).flatten(0, 1).to(matrices_N23)
    seen_NP2 = transform(invert(matrices_N23), grid_P2[None])
    # grid_sample counts from -1 to 1 between the outer edges of the first and the last pixel.
    scaled_NP2 = (2 * seen_NP2 + 1) / seen_NP2.new_tensor([width, height]) - 1
    grid_NHW2 = scaled_NP2.unflatten(1, (len(place_M), len(place_M)))
    sampled_NCHW = functional.grid_sample(pixels_NCHW, grid_NHW2, align_corners=False)
    return functional.avg_pool2d(sampled_NCHW, points) if points > 1 else sampled_NCHW
