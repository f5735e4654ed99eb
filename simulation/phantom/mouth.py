"""How are nose, lips and philtrum painted?

Legend: M half faces, Y X cells of a window of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from simulation.phantom.anatomy import Face, Mouth, Nose
from simulation.phantom.canvas import bell, blend, inside, ramp, rgb, spot, window
from simulation.phantom.look import Look

_NOSE = window(0.46, -0.25, 0.84)
_MOUTH = window(0.62, 0.36, 1.16)
_NOSTRIL = rgb(0.30, 0.20, 0.18)
_GUM = rgb(0.28, 0.12, 0.12)
_TEETH = rgb(0.84, 0.81, 0.75)
_TONGUE = rgb(0.92, 0.52, 0.50)
_LIP_LINE = rgb(0.42, 0.30, 0.31)


@dataclass(frozen=True)
class _Lips:
    """Edges of the lips over the window, and how open the mouth is (M, 1, 1, 1)."""

    half_width: Tensor
    line: Tensor  # where the lips meet
    top: Tensor
    bottom: Tensor
    inner_top: Tensor
    inner_bottom: Tensor
    open: Tensor
    within: Tensor


def paint_nose(image_M3YX: Tensor, nose: Nose, look: Look) -> None:
    """Paints nostrils, wings, base and tip, in place."""
    x, y = _NOSE.x, _NOSE.y
    centre_x, centre_y = nose.wing_x * 0.50, nose.base_y - 0.020 - 0.018 * nose.anteversion
    half_height = 0.009 + 0.008 * nose.anteversion.clamp(0, 1.6)
    across, down = (x - centre_x) / (nose.wing_x * 0.21), (y - centre_y - 0.12 * (x - centre_x)) / half_height
    nostril = 0.65 * inside((1 - across * across - down * down) * 0.010, 0.006)
    rim = ((x - nose.wing_x * 0.72) / (nose.wing_x * 0.34)) ** 2 + ((y - nose.y - 0.005) / 0.066) ** 2
    wing = 0.22 * bell((rim + 1e-6).sqrt(), 1.0, 0.16) * ramp((x - nose.wing_x * 0.6) / 0.05)
    middle = bell(x, 0.0, nose.wing_x * 0.35)
    base = 0.16 * bell(y, nose.base_y + 0.004 + nose.columella * middle, 0.013) * inside(nose.wing_x * 0.62 - x, 0.03)
    blend(image_M3YX, _NOSE, (wing + base).clamp(0, 0.6), look.skin * 0.5)
    blend(image_M3YX, _NOSE, nostril, look.skin * _NOSTRIL)
    blend(image_M3YX, _NOSE, 0.14 * spot(_NOSE, 0.0, nose.y - 0.045, 0.035, 0.035), look.skin * 1.25)


def paint_mouth(image_M3YX: Tensor, face: Face, look: Look) -> None:
    """Paints lips, what shows between them, and the philtrum, in place."""
    mouth = face.mouth
    lips = _lips(mouth, look)
    _paint_philtrum(image_M3YX, face, lips, look)
    _paint_lips(image_M3YX, mouth, lips, look)
    _paint_inside(image_M3YX, mouth, lips, look)
    corner = 0.45 * bell(_MOUTH.x, lips.half_width, 0.020) * bell(_MOUTH.y, lips.line, 0.015)
    blend(image_M3YX, _MOUTH, corner, look.skin * 0.5)


def smiling_half_width(mouth: Mouth, smile: Tensor) -> Tensor:
    """Half the width of the mouth, which a smile stretches."""
    return mouth.half_width * (1 + 0.16 * smile)


def corner_y(mouth: Mouth, smile: Tensor) -> Tensor:
    """Height of the corners of the mouth, which a smile lifts."""
    return mouth.y + 0.005 - mouth.corner_rise - 0.055 * smile


def _lips(mouth: Mouth, look: Look) -> _Lips:
    half_width = smiling_half_width(mouth, look.smile)
    along = _MOUTH.x / half_width
    arch = (1 - along.clamp(0, 1) ** 2).clamp_min(0)
    root = arch.sqrt()
    line = (
        mouth.y + (corner_y(mouth, look.smile) - mouth.y) * along * along - 0.012 * mouth.tent * bell(along, 0.0, 0.35)
    )
    opened = (look.open + mouth.opening).clamp(0, 1) * 0.13
    upper = mouth.upper * (1 - 0.2 * look.smile)
    bow = 0.028 * bell(_MOUTH.x, 0.0, 0.03) - 0.012 * bell(_MOUTH.x, 0.065, 0.035)
    top = line - upper * arch**0.75 + mouth.bow * bow * (upper / 0.06).clamp(0.2, 1.2) - 0.15 * opened * arch
    return _Lips(
        half_width=half_width,
        line=line,
        top=top,
        bottom=line + mouth.lower * arch**0.65 + 0.85 * opened * root,
        inner_top=line - 0.12 * opened * arch,
        inner_bottom=line + 0.8 * opened * arch**0.7,
        open=opened,
        within=inside((1 - along) * half_width, 0.012),
    )


def _paint_lips(image_M3YX: Tensor, mouth: Mouth, lips: _Lips, look: Look) -> None:
    opacity = 0.84 * inside(torch.minimum(_MOUTH.y - lips.top, lips.bottom - _MOUTH.y), 0.009) * lips.within
    upper_shadow = 0.18 * ramp((lips.line - _MOUTH.y) / 0.05 + 0.5)
    shine = 0.12 * spot(_MOUTH, 0.05, mouth.y + mouth.lower * 0.55 + lips.open, 0.10, 0.025)
    blend(image_M3YX, _MOUTH, opacity, look.lips * (1.03 - upper_shadow + shine))
    scar = (
        0.45
        * mouth.scar.clamp(0, 1)
        * bell(_MOUTH.x, 0.055, 0.014)
        * inside(lips.line - _MOUTH.y)
        * inside(_MOUTH.y - lips.top + 0.12)
    )
    blend(image_M3YX, _MOUTH, scar.clamp(0, 0.6), look.skin * 0.72)


def _paint_inside(image_M3YX: Tensor, mouth: Mouth, lips: _Lips, look: Look) -> None:
    is_open = lips.open > 0.012
    closed_line = 0.72 * bell(_MOUTH.y, lips.line, 0.0095) * lips.within * ~is_open
    blend(image_M3YX, _MOUTH, closed_line, look.lips * _LIP_LINE)
    gap = torch.minimum(_MOUTH.y - lips.inner_top, lips.inner_bottom - _MOUTH.y) - 0.004
    teeth = inside(lips.inner_top + 0.045 - _MOUTH.y, 0.008) * inside(0.78 * lips.half_width - _MOUTH.x, 0.02)
    tongue_top = lips.inner_bottom - 0.03 - 0.03 * mouth.tongue
    tongue = (
        inside(_MOUTH.y - tongue_top, 0.012)
        * inside(0.62 * lips.half_width - _MOUTH.x, 0.03)
        * (0.4 + 0.3 * mouth.tongue)
    )
    colour = look.skin * _GUM
    colour = colour + teeth * (_TEETH * (1 - 0.8 * _MOUTH.x) - colour)
    colour = colour + tongue.clamp(0, 1) * (look.skin * _TONGUE * 0.9 - colour)
    blend(image_M3YX, _MOUTH, inside(gap, 0.007) * lips.within * is_open, colour)


def _paint_philtrum(image_M3YX: Tensor, face: Face, lips: _Lips, look: Look) -> None:
    between = ramp((_MOUTH.y - face.nose.base_y) / 0.03) * face.mouth.philtrum_depth
    ridge = 0.18 * bell(_MOUTH.x, 0.042, 0.013) * between * inside(lips.top - _MOUTH.y - 0.015, 0.015)
    groove = 0.22 * bell(_MOUTH.x, 0.0, 0.020) * between * inside(lips.top - _MOUTH.y, 0.012)
    blend(image_M3YX, _MOUTH, ridge.clamp(0, 0.5), look.skin * 1.3)
    blend(image_M3YX, _MOUTH, groove.clamp(0, 0.5), look.skin * 0.55)
