"""What is behind and below the face? A wall, long hair, neck and a shirt.

Legend: N photos, Y X pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from simulation.phantom.anatomy import Head
from simulation.phantom.camera import Frame, sample
from simulation.phantom.canvas import bell, inside, ramp
from simulation.phantom.columns import as_map
from simulation.phantom.look import hair_colour, skin_colour
from simulation.phantom.people import Person
from simulation.phantom.shot import Shot

_LONG_HAIR = 0.15  # face units: from here on hair hangs down behind the neck


def backdrop(frame: Frame, body: tuple[Tensor, Tensor], person: Person, shot: Shot, head: Head) -> Tensor:
    """The photo without the head, (N, 3, Y, X).

    Args:
        frame: pixels on the raw photo.
        body: face units to the right of the face's middle and downwards, (N, 1, Y, X) each.
        person: who stands there.
        shot: wall, shirt and light.
        head: lengths of one half of each head, (N, 1, 1, 1).
    """
    image = _wall(frame, shot)
    _lay(image, *_neck(body, person, shot, head))
    _lay(image, *_long_hair(body, person, head))
    _lay(image, *_shirt(body, shot, head))
    return image


def _lay(image: Tensor, opacity: Tensor, colour: Tensor) -> None:
    image += opacity * (colour - image)


def _wall(frame: Frame, shot: Shot) -> Tensor:
    grid = torch.cat([frame.x, frame.y], 1).permute(0, 2, 3, 1)
    return F.grid_sample(shot.wall_N3YX, grid * 0.75, padding_mode="border", align_corners=False)


def _neck(body: tuple[Tensor, Tensor], person: Person, shot: Shot, head: Head) -> tuple[Tensor, Tensor]:
    x, y = body
    below_chin = y - head.chin_y
    half_width = head.neck_half_width + 0.6 * (below_chin - 0.25).clamp_min(0)
    across = x / half_width
    shade = (
        (0.56 + 0.20 * ramp(below_chin / 0.5))
        * (0.35 + as_map(shot.ambient_N))
        * (1 - 0.3 * across * across).clamp_min(0.5)
    )
    return inside(half_width - x.abs(), 0.02) * inside(y - 0.5, 0.03), as_map(skin_colour(person)) * shade


def _long_hair(body: tuple[Tensor, Tensor], person: Person, head: Head) -> tuple[Tensor, Tensor]:
    x, y = body
    style = person.style
    length, volume = as_map(style.hair_length_N), as_map(style.hair_volume_N)
    strands = sample(style.strands_N1YX, x, y)
    half_width = (
        head.half_width - 0.02 + volume - 0.08 * ramp((y - 0.4) / 0.9) - 0.25 * ramp((y - length - 0.25) / 0.45)
    )
    ends = inside(length + 0.5 + 0.03 * strands - y, 0.06) * inside(y + 0.2, 0.05)
    opacity = (
        inside(half_width - x.abs(), 0.02)
        * inside(x.abs() - head.neck_half_width + 0.06, 0.03)
        * ends
        * (length > _LONG_HAIR)
    )
    return opacity, as_map(hair_colour(person)) * (0.68 + 0.07 * strands)


def _shirt(body: tuple[Tensor, Tensor], shot: Shot, head: Head) -> tuple[Tensor, Tensor]:
    x, y = body
    collar = head.chin_y + 0.36 + 0.22 * x * x - 0.10 * bell(x, 0.0, 0.5)
    shoulder = 1.25 + (y - 1.5).clamp_min(0) - x.abs()
    folds = 0.80 + 0.10 * bell(x, 0.0, 0.7)
    return inside(y - collar, 0.02) * inside(shoulder, 0.03), as_map(shot.shirt_N3) * folds
