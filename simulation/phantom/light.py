"""How does light fall on a face? Lambert's law with a soft lamp, ambient light and a little gloss.

Legend: N photos, y x cells of the coarse grid over the whole face.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from simulation.phantom.canvas import CELL
from simulation.phantom.columns import as_map
from simulation.phantom.shot import Shot

_FROM_BELOW = 0.06  # light reflected by a floor


def shading(relief_N1yx: Tensor, shot: Shot, light_x: float) -> tuple[Tensor, Tensor]:
    """Factor on the skin's colour and the gloss to add to it, (N, 1, y, x) each.

    Args:
        relief_N1yx: height field of the whole face, face units.
        shot: pose and light.
        light_x: where the hospital's lamp stands, radians.
    """
    normal = _normals(relief_N1yx)
    lamp, eye = _to_face(_direction(shot, light_x), shot), _to_face((0.0, 0.0, 1.0), shot)
    facing = _dot(normal, lamp)
    ambient = as_map(shot.ambient_N)
    diffuse = 0.75 * facing.clamp_min(0) + 0.25 * (0.5 * facing + 0.5)
    between = [a + b for a, b in zip(lamp, eye, strict=True)]
    length = (between[0] ** 2 + between[1] ** 2 + between[2] ** 2).sqrt()
    mirror = (_dot(normal, [part / length for part in between])).clamp(0, 1)
    sharp = mirror * mirror
    sharp = sharp * sharp * sharp
    gloss = as_map(shot.gloss_N) * sharp * sharp * sharp  # the 18th power
    return ambient + (1.12 - ambient) * diffuse - _FROM_BELOW * normal[1], gloss


def _normals(relief: Tensor) -> list[Tensor]:
    right = F.pad((relief[..., 2:] - relief[..., :-2]) / (4 * CELL), (1, 1, 0, 0), mode="replicate")
    down = F.pad((relief[..., 2:, :] - relief[..., :-2, :]) / (4 * CELL), (0, 0, 1, 1), mode="replicate")
    flat = (1 + right * right + down * down).sqrt().reciprocal()
    return [-right * flat, -down * flat, flat]


def _direction(shot: Shot, light_x: float) -> tuple[Tensor, Tensor, Tensor]:
    aside, below = shot.light_N2[:, 0] + light_x, shot.light_N2[:, 1]
    return aside.sin() * below.cos(), below.sin(), aside.cos() * below.cos()


def _to_face(direction: tuple[Tensor, Tensor, Tensor] | tuple[float, float, float], shot: Shot) -> list[Tensor]:
    """A direction of the room as the turned head sees it, (N, 1, 1, 1) each."""
    x, y, z = direction
    cos_yaw, sin_yaw, cos_pitch, sin_pitch = shot.yaw_N.cos(), shot.yaw_N.sin(), shot.pitch_N.cos(), shot.pitch_N.sin()
    right = cos_yaw * x + sin_pitch * sin_yaw * y - cos_pitch * sin_yaw * z
    down = cos_pitch * y + sin_pitch * z
    near = sin_yaw * x - sin_pitch * cos_yaw * y + cos_pitch * cos_yaw * z
    return [as_map(part) for part in (right, down, near)]


def _dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
