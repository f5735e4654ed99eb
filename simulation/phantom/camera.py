"""Where does a point of a face appear on the photo, and what does a pixel see? A weak-perspective camera, both ways.

A raw photo spans -1..1 to the right and downwards. A frame says which part of it the pixels show: all of it, or the
crop aligned to the five-point template.

Legend: N photos, L landmarks, Y X pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bioface_core.align import TEMPLATE_L2
from simulation.phantom.canvas import BOTTOM, TOP, WIDTH
from simulation.phantom.columns import as_map
from simulation.phantom.shot import Shot

_PIVOT_Y, _PIVOT_Z = 0.05, 0.25  # the head turns about this point
_PERSPECTIVE = 0.10  # how much larger what is one face unit nearer appears


@dataclass(frozen=True)
class Frame:
    """Where each pixel lies on the raw photo, (N, 1, Y, X) each, and how large a pixel is there (N,)."""

    x: Tensor
    y: Tensor
    pixel_N: Tensor


def whole_frame(photos: int, size_px: int) -> Frame:
    """The whole raw photo at ``size_px`` x ``size_px``."""
    centres = (torch.arange(size_px) + 0.5) * (2 / size_px) - 1
    x = centres.reshape(1, 1, 1, -1).expand(photos, 1, size_px, size_px)
    return Frame(x.contiguous(), x.transpose(2, 3).contiguous(), torch.full((photos,), 2 / size_px))


def aligned_frame(landmarks_NL2: Tensor, size_px: int) -> Frame:
    """The crop on which landmarks lie closest to a template, by a similarity transform.

    With points as complex numbers the least-squares transform is a quotient (Umeyama 1991, without reflection).

    Args:
        landmarks_NL2: on the raw photo, -1..1.
        size_px: side of the crop; the template is that of 112, scaled.
    """
    landmarks_NL, template_L = _complex(landmarks_NL2), _complex(TEMPLATE_L2) * (size_px / 112)
    centre_N, middle = landmarks_NL.mean(1), template_L.mean()
    spread_L = template_L - middle
    turn_N = ((landmarks_NL - centre_N[:, None]) * spread_L.conj()).sum(1) / (np.abs(spread_L) ** 2).sum()
    pixels = np.arange(size_px)
    seen = turn_N[:, None, None] * (pixels[None, None] + 1j * pixels[None, :, None] - middle) + centre_N[:, None, None]
    x, y = (torch.from_numpy(part.astype(np.float32))[:, None] for part in (seen.real, seen.imag))
    return Frame(x, y, torch.from_numpy(np.abs(turn_N).astype(np.float32)))


def on_frame(landmarks_NL2: Tensor, frame: Frame) -> Tensor:
    """Landmarks of the raw photo as pixels of the frame; pixel centres are whole numbers."""
    corner = torch.stack([frame.x[:, 0, 0, 0], frame.y[:, 0, 0, 0]], 1)[:, None]
    step = torch.stack([frame.x[:, 0, 0, 1], frame.y[:, 0, 0, 1]], 1)[:, None] - corner
    away = landmarks_NL2 - corner
    scale = step[..., :1] ** 2 + step[..., 1:] ** 2
    right = (away[..., :1] * step[..., :1] + away[..., 1:] * step[..., 1:]) / scale
    down = (away[..., 1:] * step[..., :1] - away[..., :1] * step[..., 1:]) / scale
    return torch.cat([right, down], 2)


def project(x_NL: Tensor, y_NL: Tensor, depth_NL: Tensor, shot: Shot) -> Tensor:
    """Points of the face, in face units, on the raw photo, (N, L, 2)."""
    turn = _Turn.of(shot, (-1, 1))
    down, near = y_NL - _PIVOT_Y, depth_NL - _PIVOT_Z
    across = turn.cos_yaw * x_NL + turn.sin_yaw * near
    down = turn.sin_pitch * turn.sin_yaw * x_NL + turn.cos_pitch * down - turn.sin_pitch * turn.cos_yaw * near
    shrink = 1 - _PERSPECTIVE * near
    across, down = across / shrink, down / shrink + _PIVOT_Y
    right = turn.cos_roll * across - turn.sin_roll * down
    down = turn.sin_roll * across + turn.cos_roll * down
    size_N1, place_N12 = shot.size_N[:, None], shot.place_N2[:, None]
    return torch.stack([size_N1 * right, size_N1 * down], 2) + place_N12


def body_coordinates(frame: Frame, shot: Shot) -> tuple[Tensor, Tensor]:
    """Face units of each pixel, right and down, before the head turns, (N, 1, Y, X) each."""
    size = as_map(shot.size_N)
    return (frame.x - as_map(shot.place_N2[:, 0])) / size, (frame.y - as_map(shot.place_N2[:, 1])) / size


def unproject(body_x: Tensor, body_y: Tensor, relief_N1YX: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
    """The point of the face that each pixel sees, by fixed-point iteration on its depth.

    Args:
        body_x: (N, 1, Y, X) of ``body_coordinates``.
        body_y: likewise.
        relief_N1YX: height field of the whole face.
        shot: pose.

    Returns:
        x and y in face units, (N, 1, Y, X) each.
    """
    turn = _Turn.of(shot, (-1, 1, 1, 1))
    across = turn.cos_roll * body_x + turn.sin_roll * body_y
    down = turn.cos_roll * body_y - turn.sin_roll * body_x - _PIVOT_Y
    near = torch.full_like(across, -_PIVOT_Z)
    x, y = turn.back(across, down, near)
    for damping in (1.0, 0.6):
        near = near + damping * (sample(relief_N1YX, x, y) - _PIVOT_Z - near)
        x, y = turn.back(across, down, near)
    return x, y


def sample(picture_NCYX: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Reads a picture of the whole face at face units (N, 1, Y, X); beyond its border the border goes on."""
    grid = torch.cat([x / WIDTH, (y - (TOP + BOTTOM) / 2) * (2 / (BOTTOM - TOP))], 1).permute(0, 2, 3, 1)
    return torch.nn.functional.grid_sample(picture_NCYX, grid, padding_mode="border", align_corners=False)


def on_picture(x: Tensor, y: Tensor) -> Tensor:
    """1 where a point of ``unproject`` lies on the painted grid."""
    return ((x.abs() < WIDTH * 0.99) & (y > TOP + 0.02) & (y < BOTTOM - 0.02)).float()


@dataclass(frozen=True)
class _Turn:
    """Cosines and sines of the pose, shaped to combine with the points."""

    cos_yaw: Tensor
    sin_yaw: Tensor
    cos_pitch: Tensor
    sin_pitch: Tensor
    cos_roll: Tensor
    sin_roll: Tensor

    @staticmethod
    def of(shot: Shot, shape: tuple[int, ...]) -> _Turn:
        yaw, pitch, roll = (angle.reshape(shape) for angle in (shot.yaw_N, shot.pitch_N, shot.roll_N))
        return _Turn(yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin(), roll.cos(), roll.sin())

    def back(self, across: Tensor, down: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
        """The point of the face seen at (across, down), given its depth relative to the pivot."""
        shrink = 1 - _PERSPECTIVE * near
        x = (across * shrink - self.sin_yaw * near) / self.cos_yaw
        tilted = self.sin_pitch * (self.cos_yaw * near - self.sin_yaw * x)
        return x, (down * shrink + tilted) / self.cos_pitch + _PIVOT_Y


def _complex(points: Tensor) -> np.ndarray:
    numbers = points.double().numpy()
    return np.asarray(numbers[..., 0] + 1j * numbers[..., 1])
