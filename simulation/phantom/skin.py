"""How are skin, ears and hair painted? Skin with blush and baked shadows, then the layers of hair and ears around it.

Legend: M half faces, Y X cells of the grid, y x cells of the coarse grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from simulation.phantom.anatomy import Face
from simulation.phantom.canvas import COARSE, WHOLE, bell, enlarge, inside, ramp, rgb, spot
from simulation.phantom.look import Look
from simulation.phantom.relief import fold_line, outline

_REDDER = rgb(0.30, -0.40, -0.32)
_STUBBLE = rgb(0.42, 0.36, 0.30)
_EAR_TINT = rgb(0.95, 0.85, 0.81)
_CROWN_Y = -0.25  # above it the hair is a dome, below it follows the cheeks
_HANGING_Y = 0.55  # and below this it hangs straight down


def paint_skin(face: Face, look: Look) -> Tensor:
    """Skin over the whole grid, (M, 3, Y, X)."""
    edge = outline(face.head, COARSE.y)
    shade = _hollows(face) * (1 - 0.30 * ramp((COARSE.x / edge - 0.80) / 0.25)) - _lines(face, look)
    colour = look.skin * shade.clamp(0.15, 1.2) * (1 + _redness(face, look) * _REDDER)
    return enlarge(colour * (1 - _beard(face, look) * _STUBBLE))


def paint_surroundings(image_M3YX: Tensor, face: Face, look: Look) -> Tensor:
    """Paints ears and hair around and over the skin, in place.

    Returns:
        opacity of the head, (M, 1, Y, X): 0 where the background shows.
    """
    beyond = WHOLE.x - outline(face.head, WHOLE.y)
    skin = inside(torch.minimum(torch.minimum(-beyond, face.head.chin_y - WHOLE.y), WHOLE.y - face.head.top_y), 0.012)
    ears, ear_colour = _ears(face, look)
    image_M3YX += ears * (1 - skin) * (ear_colour - image_M3YX)
    possible = _hair(face, look)
    hair = possible * torch.maximum(_front(face, look), (1 - skin) * (1 - ears))
    # Where hair is all there is, a strand's thin edge has the hair's colour too: it is the opacity that fades.
    share = hair / (hair + (1 - hair) * torch.maximum(skin, ears) + 1e-3)
    image_M3YX += share * (_hair_colour(look, beyond) - image_M3YX)
    return 1 - (1 - skin) * (1 - ears) * (1 - possible)


def _redness(face: Face, look: Look) -> Tensor:
    cheeks = (0.06 + look.blush) * spot(COARSE, 0.46, 0.37, 0.19, 0.15)
    return cheeks + 0.10 * spot(COARSE, 0.0, face.nose.y, 0.12, 0.10)


def _hollows(face: Face) -> Tensor:
    """Light that does not get into corners, 1 where it does."""
    head, eyes, nose, mouth = face.head, face.eyes, face.nose, face.mouth
    inner = (0.12 + 0.14 * head.maturity) * spot(COARSE, eyes.x - eyes.half_length - 0.03, -0.03, 0.07, 0.08)
    sockets = 0.12 * spot(COARSE, eyes.x, -0.05, 0.19, 0.10)
    bags = 0.10 * eyes.puffiness * spot(COARSE, eyes.x - 0.02, 0.135, 0.15, 0.035)
    wings = 0.11 * spot(COARSE, nose.wing_x + 0.02, nose.y + 0.02, 0.035, 0.06)
    base = 0.07 * spot(COARSE, 0.0, nose.base_y + 0.015, 0.13, 0.03)
    chin = 0.13 * spot(COARSE, 0.0, mouth.y + mouth.lower + 0.06, 0.17, 0.03)
    flank = (0.3 + nose.bridge_depth * 4).clamp(0, 1.1) * 0.08 * spot(COARSE, 0.13, 0.14, 0.05, 0.13)
    return 1 - inner - sockets - bags - wings - base - chin - flank


def _lines(face: Face, look: Look) -> Tensor:
    head, eyes = face.head, face.eyes
    age = 0.3 + 0.7 * head.maturity
    fold = (0.05 * age + 0.10 * look.smile + 0.05 * head.wrinkles) * fold_line(face)
    under_eyes = 0.05 * head.wrinkles * spot(COARSE, eyes.x, 0.20, 0.14, 0.018)
    forehead = 0.02 * head.wrinkles * torch.cos(COARSE.y * 70) * spot(COARSE, 0.0, -0.45, 0.35, 0.10)
    return fold + under_eyes + forehead


def _beard(face: Face, look: Look) -> Tensor:
    """Stubble of men, and the fine hair of hirsutism on temples, cheeks and upper lip."""
    lower = ramp((COARSE.y - face.nose.base_y + 0.03) / 0.12) * (1 - 0.75 * spot(COARSE, 0.40, 0.50, 0.16, 0.13))
    sides = ramp((COARSE.x - 0.45) / 0.2) * bell(COARSE.y, 0.1, 0.45)
    upper_lip = spot(COARSE, 0.10, face.nose.base_y + face.mouth.philtrum_length * 0.5, 0.14, 0.04)
    return look.stubble * lower + 0.16 * face.head.hirsutism * torch.maximum(sides, upper_lip)


def _ears(face: Face, look: Look) -> tuple[Tensor, Tensor]:
    """Opacity and colour of the ears; long hair covers them."""
    ears, x, y = face.ears, WHOLE.x, WHOLE.y
    across = x - (face.head.half_width + 0.03 + 0.03 * ears.protrusion)
    down = y - ears.y
    half_width, half_height = 0.085 * ears.size * (1 + 0.35 * ears.protrusion), 0.30 * ears.size
    radius = ((across + 0.15 * down) / half_width) ** 2 + (down / half_height) ** 2
    covered = 0.9 * (look.hair_length > 0.15)
    opacity = inside((1 - radius) * 0.05, 0.012) * inside(across + 0.12, 0.03) * (1 - covered)
    return opacity, look.skin * _EAR_TINT * (0.66 + 0.34 * ramp((radius - 0.25) / 0.5))


def _hair(face: Face, look: Look) -> Tensor:
    """Where hair can be: inside a dome over the skull, and beside the face down to its length."""
    x, y = WHOLE.x, WHOLE.y
    top = face.head.top_y - look.hair_volume * 0.9
    half_width = face.head.half_width + look.hair_volume
    dome = 0.4 * (1 - (x / half_width) ** 2 - ((y - _CROWN_Y) / (top - _CROWN_Y)) ** 2)
    beyond = x - outline(face.head, y.clamp_max(_HANGING_Y))
    over_the_skull = torch.minimum(0.015 + 0.5 * look.hair_volume - beyond, y - top)
    outer = look.hair_volume * (1 - 0.35 * ramp((y - _CROWN_Y) / 0.6)) - beyond
    inner = beyond + 0.15 + 2 * (_HANGING_Y - y).clamp_min(0)
    shape = torch.where(y < _CROWN_Y, torch.maximum(dome, over_the_skull), torch.minimum(outer, inner))
    ends = inside(look.hair_length + 0.04 * look.locks + 0.03 * look.strands - y, 0.035)
    density = 1 - 0.3 * face.hairline.sparseness.clamp(0, 2)
    return inside(shape + 0.02 * look.locks, 0.02) * ends * density


def _front(face: Face, look: Look) -> Tensor:
    """Where hair lies over the forehead and temples."""
    x, y = WHOLE.x, WHOLE.y
    aside = (x / face.head.half_width).clamp(0, 1.3)
    edge = face.hairline.y + 0.5 * look.temple * aside * aside * aside
    edge = edge + face.hairline.peak * bell(x, 0.0, 0.09) - 0.16 * look.recede * bell(x, 0.40, 0.14)
    fuzz = 0.03 * look.locks + 0.012 * look.strands
    return inside(edge + fuzz - y, 0.02 + 0.012 * face.hairline.sparseness)


def _hair_colour(look: Look, beyond: Tensor) -> Tensor:
    shine = 0.90 + 0.10 * look.strands + 0.05 * look.locks
    return look.hair * (shine * (1 - 0.25 * ramp(beyond / 0.12))).clamp(0.4, 1.4)
