"""How are eyes, eyebrows and glasses painted?

Legend: M half faces, Y X cells of a window of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from simulation.phantom.anatomy import Brows, Eyes
from simulation.phantom.canvas import bell, blend, inside, ramp, rgb, window
from simulation.phantom.look import Look

_EYES = window(0.78, -0.36, 0.36)
_BROWS = window(0.86, -0.56, 0.02)
_SCLERA = rgb(0.88, 0.85, 0.83)
_CARUNCLE = rgb(1.0, 0.64, 0.60)
_LASH_DARKNESS = 0.22


@dataclass(frozen=True)
class _Fissure:
    """Where the lids are.

    Attributes:
        along: -1 at the inner corner of the eye, 1 at the outer one.
        y: height relative to the slanted line through both corners.
        upper: edge of the upper lid, as ``y``.
        lower: edge of the lower lid.
        within: 1 between the corners.
        visible: 1 where the eyeball shows.
    """

    along: Tensor
    y: Tensor
    upper: Tensor
    lower: Tensor
    within: Tensor
    visible: Tensor


def paint_eyes(image_M3YX: Tensor, eyes: Eyes, look: Look) -> None:
    """Paints eyeball, lids and lashes, in place."""
    fissure = _fissure(eyes, look)
    blend(image_M3YX, _EYES, fissure.visible, _eyeball(eyes, fissure, look))
    _paint_lids(image_M3YX, eyes, fissure, look)


def paint_brows(image_M3YX: Tensor, brows: Brows, eyes: Eyes, look: Look) -> None:
    """Paints the eyebrow and what joins it to the other one, in place."""
    x, y = _BROWS.x, _BROWS.y
    along = (x - eyes.x - 0.015) / brows.half_length
    line = brows.y + 0.02 - brows.arch * (1 - (along - 0.25) ** 2).clamp(-1, 1) - brows.slant * along
    taper = 1.05 - 0.25 * along - 0.45 * (along.clamp_min(0.2) - 0.2) ** 2 + 0.5 * brows.flare * ramp(-along - 0.3)
    distance = torch.maximum(
        (y - line).abs() - brows.half_thickness * taper.clamp_min(0.15), (along.abs() - 1) * brows.half_length
    )
    hairs = _BROWS.of(look.strands)
    density = (0.68 + 0.08 * hairs) * (1 - 0.4 * brows.tail * ramp((along - 0.1) / 0.5))
    brow = inside(0.005 * hairs - distance, 0.014) * density
    joint = 0.75 * brows.meeting * bell(x, 0.0, 0.10) * bell(y, brows.y - 0.005, brows.half_thickness + 0.012)
    opacity = torch.maximum(brow, joint) * look.brow_density
    blend(image_M3YX, _BROWS, opacity.clamp(0, 0.95), look.brow)


def paint_glasses(image_M3YX: Tensor, eyes: Eyes, look: Look) -> None:
    """Paints a frame where there is one, in place."""
    x, y = _EYES.x, _EYES.y
    half_width, half_height = 0.21 * look.glasses_size, 0.155 * look.glasses_size
    across, down = ((x - eyes.x - 0.01) / half_width) ** 2, ((y - 0.02) / half_height) ** 2
    rim = ((across * across + down * down).sqrt().sqrt() - 1) * half_height
    bridge = inside(0.12 - x) + inside(x - eyes.x - half_width)
    frame = bell(rim, 0.0, 0.014) + bell(y, -0.03, 0.014) * bridge
    blend(image_M3YX, _EYES, (frame * look.glasses).clamp(0, 0.92), look.frame)


def _fissure(eyes: Eyes, look: Look) -> _Fissure:
    along = (_EYES.x - eyes.x) / eyes.half_length
    y = _EYES.y + eyes.slant * (_EYES.x - eyes.x)
    dome = 1 - along.abs().clamp(0, 1) ** 2.1
    opening = eyes.opening * (1 - 0.92 * look.blink) * (1 - 0.25 * look.smile)
    upper = -opening * dome**0.8 * (1 - eyes.droop) * (1 - 0.18 * along) + 0.012 * eyes.droop
    lower = eyes.opening * 0.70 * dome * (1 + 0.15 * along) * (1 - 0.2 * look.smile)
    lower = lower + 0.012 * eyes.eversion * bell(along, 0.62, 0.28) + 0.022 * eyes.notch * bell(along, 0.55, 0.16)
    within = inside((1.06 - along.abs()) * eyes.half_length)
    gap = torch.minimum(torch.minimum(y - upper, lower - y), (1 - along.abs()) * eyes.half_length * 0.6)
    gap = gap - 0.035 * eyes.fold * bell(along, -1.0, 0.28)
    return _Fissure(along, y, upper, lower, within, inside(gap, 0.008))


def _eyeball(eyes: Eyes, fissure: _Fissure, look: Look) -> Tensor:
    """Sclera, iris, pupil, highlight and caruncle, (M, 3, Y, X)."""
    below_lid = (fissure.y - fissure.upper).clamp_min(0)
    shade = (1 - 0.45 * torch.exp(below_lid * (-1 / 0.022))) * (1 - 0.20 * fissure.along.abs() ** 3)
    across = _EYES.x - eyes.x - look.gaze_x + eyes.squint
    down = fissure.y + 0.008 - look.gaze_y
    radius = (across * across + down * down + 1e-9).sqrt()
    ring = 0.65 + 0.55 * ramp((radius - 0.02) / 0.03)
    limbus = 1 - 0.6 * ramp((radius - eyes.iris_radius + 0.013) / 0.012)
    iris = inside(eyes.iris_radius - radius, 0.007)
    pupil = 1 - 0.96 * inside(look.pupil - radius, 0.007)
    highlight = 0.8 * bell(across, look.highlight_x, 0.011) * bell(down, -0.022, 0.011)
    eye = _SCLERA * shade
    eye = (eye + iris * (look.iris * (ring * limbus * shade) - eye)) * pupil + highlight
    return eye + 0.5 * bell(fissure.along, -0.97, 0.08) * (look.skin * _CARUNCLE - eye)


def _paint_lids(image_M3YX: Tensor, eyes: Eyes, fissure: _Fissure, look: Look) -> None:
    along, y, upper = fissure.along, fissure.y, fissure.upper
    thickness = 0.010 + 0.004 * eyes.lashes + 0.004 * along.clamp(-0.5, 1)
    lashes = 0.95 * eyes.lashes * bell(y, upper - 0.004 * eyes.lashes, thickness) * fissure.within
    blend(image_M3YX, _EYES, (lashes * (1 - 0.6 * eyes.fold)).clamp(0, 0.95), look.skin * _LASH_DARKNESS)
    lower = 0.36 * bell(y, fissure.lower + 0.004, 0.009) * fissure.within
    near = inside((1.05 - along.abs()) * eyes.half_length, 0.03)
    crease = bell(y, upper * 1.05 - 0.042 - 0.02 * (1 - eyes.droop), 0.010) * near
    fold = bell(along, -1.02 - 70 * y * y, 0.10) * bell(y, 0.0, 0.05) * eyes.fold
    bag = bell(y, 0.088 + 0.02 * (1 - along.abs().clamp(0, 1)), 0.014) * near
    shadow = lower + 0.36 * crease * (1 - 0.75 * eyes.fold) + 0.40 * fold + (0.10 + 0.22 * eyes.puffiness) * bag
    blend(image_M3YX, _EYES, shadow.clamp(0, 0.8), look.skin * 0.5)
