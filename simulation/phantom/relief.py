"""How deep is each point of a face? An outline, and a height field of smooth bumps, as light and perspective need it.

Legend: M half faces, y x cells of the coarse grid. Heights are in face units towards the camera.
"""

from __future__ import annotations

import torch
from torch import Tensor

from simulation.phantom.anatomy import Brows, Eyes, Face, Head, Mouth, Nose
from simulation.phantom.canvas import COARSE, bell, inside, ramp, spot

_EQUATOR = 0.05  # the skull's widest line: above it a dome, below it the jaw


def outline(head: Head, y: Tensor) -> Tensor:
    """Half the width of the head at height ``y`` (1, 1, Y, 1), as (M, 1, Y, 1)."""
    up = ((y - _EQUATOR) / (head.top_y - _EQUATOR)).clamp(0, 1)
    dome = head.half_width * (1 - up**2.5).clamp_min(1e-4).sqrt()
    dome = dome + (head.forehead_half_width - 0.72) * ramp((-y - 0.05) / 0.4) * ramp((y - head.top_y) / 0.35)
    down = ((y - _EQUATOR) / (head.chin_y - _EQUATOR)).clamp(0, 1)
    jaw = head.half_width * (1 - down**head.jaw_power).clamp_min(1e-4) ** 0.62
    jaw = jaw + (head.jaw_half_width - 0.60) * bell(y, 0.68, 0.22)
    jaw = jaw + (head.chin_half_width - 0.24) * 0.8 * bell(y, head.chin_y - 0.16, 0.12)
    jaw = jaw + (head.cheek_depth - 0.05) * 0.45 * bell(y, 0.48, 0.25) + head.cheekbone_depth * 0.6 * bell(y, 0.2, 0.15)
    return torch.where(y < _EQUATOR, dome, jaw).clamp_min(1e-3)


def relief(face: Face, smile: Tensor) -> Tensor:
    """The height field (M, 1, y, x) of half faces; beside the face it falls away behind it."""
    edge = outline(face.head, COARSE.y)
    height = _skull(face.head, edge) + _cheeks_and_brow(face.head, face.brows) + _eye_sockets(face.eyes)
    height = height + _nose(face.nose) + _mouth(face.mouth, face.nose) + _chin(face.head, face.mouth)
    height = height - _nasolabial_fold(face, smile)
    on_face = inside(edge - COARSE.x, 0.02)
    behind = -0.12 - 0.25 * (COARSE.x - edge).clamp_min(0)
    return on_face * height + (1 - on_face) * behind


def fold_line(face: Face) -> Tensor:
    """The fold from the wing of the nose to the corner of the mouth, 1 on its line, (M, 1, y, x)."""
    across = COARSE.x - (face.nose.wing_x + 0.03 + (COARSE.y - face.nose.y) * 0.42)
    along = ramp((COARSE.y - face.nose.y + 0.03) / 0.1) * (1 - ramp((COARSE.y - face.mouth.y - 0.02) / 0.1))
    return bell(across, 0.0, 0.028) * along


def _skull(head: Head, edge: Tensor) -> Tensor:
    y = COARSE.y
    up = ((y - _EQUATOR) / (head.top_y - _EQUATOR)).clamp(0, 1)
    down = ((y - _EQUATOR) / (head.chin_y - _EQUATOR)).clamp(0, 1.05)
    profile = torch.where(y < _EQUATOR, (1 - up**2.2).clamp_min(0).sqrt(), 1 - 0.36 * down**2.2)
    across = (COARSE.x / (edge * 1.02)).clamp(0, 0.999)
    return 0.62 * profile * (1 - across**2.4).sqrt()


def _cheeks_and_brow(head: Head, brows: Brows) -> Tensor:
    forehead = head.forehead_depth * spot(COARSE, 0.0, -0.55, 0.45, 0.25)
    brow_ridge = 0.035 * (0.4 + 0.6 * head.maturity) * spot(COARSE, 0.28, brows.y + 0.03, 0.22, 0.07)
    cheeks = head.cheek_depth * spot(COARSE, 0.44, 0.36, 0.22, 0.20)
    midface = head.midface_depth * spot(COARSE, 0.22, 0.34, 0.25, 0.22)
    cheekbones = head.cheekbone_depth * 1.6 * spot(COARSE, 0.50, 0.16, 0.15, 0.10)
    return forehead + brow_ridge + cheeks + midface + cheekbones


def _eye_sockets(eyes: Eyes) -> Tensor:
    socket = eyes.depth * 1.25 * spot(COARSE, eyes.x, 0.0, 0.17, 0.10)
    inner_corner = 0.02 * spot(COARSE, eyes.x - eyes.half_length - 0.02, 0.0, 0.05, 0.06)
    eyeball = 0.03 * spot(COARSE, eyes.x, 0.005, 0.09, 0.05)
    bags = 0.02 * eyes.puffiness * spot(COARSE, eyes.x, 0.13, 0.12, 0.04)
    return socket - inner_corner + eyeball + bags


def _nose(nose: Nose) -> Tensor:
    x, y = COARSE.x, COARSE.y
    along = ramp((y + 0.06) / (nose.y + 0.06))
    ridge = (
        nose.bridge_depth + (nose.tip_depth - nose.bridge_depth) * along**1.15 + nose.hump * bell(y, nose.y * 0.45, 0.1)
    )
    half_width = nose.bridge_half_width + (nose.tip_half_width - nose.bridge_half_width) * along
    extent = ramp((y + 0.24) / 0.24) * (1 - ramp((y - nose.y + 0.02) / (0.10 - 0.015 * nose.anteversion)))
    wings = 0.075 * spot(COARSE, nose.wing_x * 0.78, nose.y + 0.02, 0.050, 0.05)
    return ridge * extent * bell(x, 0.0, half_width) + wings + 0.03 * spot(COARSE, 0.0, nose.y - 0.02, 0.06, 0.05)


def _mouth(mouth: Mouth, nose: Nose) -> Tensor:
    dental_arch = 0.055 * spot(COARSE, 0.0, mouth.y, mouth.half_width * 1.1, 0.16)
    middle = nose.base_y + mouth.philtrum_length * 0.55
    groove = -0.018 * spot(COARSE, 0.0, middle, 0.028, 0.06) + 0.010 * spot(COARSE, 0.05, middle, 0.022, 0.06)
    upper_height, lower_height = mouth.upper * 0.55 + 0.01, mouth.lower * 0.55
    upper = 0.028 * spot(COARSE, 0.0, mouth.y - mouth.upper * 0.5, mouth.half_width * 0.6, upper_height)
    lower = 0.036 * spot(COARSE, 0.0, mouth.y + mouth.lower * 0.55, mouth.half_width * 0.5, lower_height)
    return dental_arch + mouth.philtrum_depth * groove + upper + lower


def _chin(head: Head, mouth: Mouth) -> Tensor:
    crease = 0.03 * spot(COARSE, 0.0, mouth.y + mouth.lower + 0.075, 0.16, 0.035)
    return (head.chin_depth + 0.02) * spot(COARSE, 0.0, head.chin_y - 0.15, head.chin_half_width * 0.8, 0.11) - crease


def _nasolabial_fold(face: Face, smile: Tensor) -> Tensor:
    return (0.010 + 0.02 * smile + 0.006 * face.head.wrinkles) * fold_line(face)
