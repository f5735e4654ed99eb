"""What colours does a half face have, and what is it doing? Style and expression as maps for the painters.

Legend: M half faces; every field is (M, 1, 1, 1) or (M, 3, 1, 1) unless it says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from simulation.phantom.anatomy import INDEX
from simulation.phantom.canvas import COLUMNS, ROWS, halves
from simulation.phantom.columns import mirrored, on_both_halves
from simulation.phantom.people import Person

_SKIN = torch.tensor(
    [
        *([0.94, 0.79, 0.71], [0.91, 0.73, 0.62], [0.85, 0.66, 0.53], [0.75, 0.55, 0.42]),
        *([0.61, 0.43, 0.32], [0.46, 0.31, 0.23], [0.35, 0.235, 0.175]),
    ]
)
_HAIR = torch.tensor(
    [
        [0.07, 0.06, 0.06],
        [0.14, 0.09, 0.07],
        [0.26, 0.16, 0.10],
        [0.42, 0.27, 0.15],
        [0.62, 0.47, 0.29],
        [0.76, 0.64, 0.45],
    ]
)
_GREY_HAIR = torch.tensor([0.62, 0.60, 0.58])
_IRIS = torch.tensor(
    [
        [0.20, 0.11, 0.06],
        [0.30, 0.18, 0.09],
        [0.34, 0.30, 0.16],
        [0.30, 0.42, 0.34],
        [0.33, 0.48, 0.60],
        [0.45, 0.52, 0.56],
    ]
)
_GLASSES_TINT = torch.tensor([1.0, 0.85, 0.72])


@dataclass(frozen=True)
class Expression:
    """What a face is doing, (N,) each.

    Attributes:
        smile_N: 0..1.
        open_N: how far the mouth is open, 0..1.
        blink_N: how far the lids are closed, 0..1.
        gaze_x_N: where the eyes look, to the right, face units.
        gaze_y_N: and downwards.
        pupil_N: radius, face units.
        highlight_x_N: where the light is mirrored in the eye.
    """

    smile_N: Tensor
    open_N: Tensor
    blink_N: Tensor
    gaze_x_N: Tensor
    gaze_y_N: Tensor
    pupil_N: Tensor
    highlight_x_N: Tensor


@dataclass(frozen=True)
class Look:
    """Colours, hair and expression of half faces. ``strands`` and ``locks`` are (M, 1, Y, X), about -1..1."""

    skin: Tensor
    hair: Tensor
    brow: Tensor
    brow_density: Tensor
    iris: Tensor
    lips: Tensor
    blush: Tensor
    stubble: Tensor
    hair_length: Tensor
    hair_volume: Tensor
    temple: Tensor
    recede: Tensor
    strands: Tensor
    locks: Tensor
    glasses: Tensor
    glasses_size: Tensor
    frame: Tensor
    smile: Tensor
    open: Tensor
    blink: Tensor
    gaze_x: Tensor
    gaze_y: Tensor
    pupil: Tensor
    highlight_x: Tensor


def skin_colour(person: Person) -> Tensor:
    """(N, 3)."""
    tone_N = person.style.tone_N - 0.09 * person.features_NF[:, INDEX["skin_lightness"]]
    return (_from_table(_SKIN, tone_N) + person.style.hue_N3).clamp(0.05, 1)


def hair_colour(person: Person) -> Tensor:
    """(N, 3)."""
    shade_N = person.style.hair_shade_N + 0.12 * person.features_NF[:, INDEX["hair_lightness"]]
    grey_N1 = person.style.grey_N[:, None]
    return (1 - grey_N1) * _from_table(_HAIR, shade_N) + grey_N1 * _GREY_HAIR


def look_of(person: Person, expression: Expression) -> Look:
    """Everything the painters need besides the lengths."""
    style = person.style
    skin_N3, hair_N3 = skin_colour(person), hair_colour(person)
    iris_N = person.iris_N + 0.25 * person.features_NF[:, INDEX["iris_lightness"]]
    lips_N1 = style.lips_N[:, None]
    tint_N3 = (1 - lips_N1) * torch.tensor([0.95, 0.70, 0.67]) + lips_N1 * torch.tensor([0.90, 0.56, 0.55])
    return Look(
        skin=on_both_halves(skin_N3),
        hair=on_both_halves(hair_N3),
        brow=on_both_halves((hair_N3 * 0.55 + skin_N3 * 0.12).clamp(0, 1)),
        brow_density=on_both_halves(style.brow_density_N),
        iris=on_both_halves(_from_table(_IRIS, iris_N)),
        lips=on_both_halves(skin_N3 * tint_N3),
        blush=on_both_halves(style.blush_N),
        stubble=on_both_halves(style.stubble_N),
        hair_length=on_both_halves(style.hair_length_N),
        hair_volume=on_both_halves(style.hair_volume_N),
        temple=on_both_halves(style.temple_N),
        recede=on_both_halves(style.recede_N),
        strands=_both(style.strands_N1YX),
        locks=_both(style.hair_noise_N1YX),
        glasses=on_both_halves(style.glasses_N),
        glasses_size=on_both_halves(style.glasses_size_N),
        frame=on_both_halves(style.glasses_shade_N[:, None] * _GLASSES_TINT),
        smile=on_both_halves(expression.smile_N),
        open=on_both_halves(expression.open_N),
        blink=on_both_halves(expression.blink_N),
        gaze_x=mirrored(expression.gaze_x_N),
        gaze_y=on_both_halves(expression.gaze_y_N),
        pupil=on_both_halves(expression.pupil_N),
        highlight_x=mirrored(expression.highlight_x_N),
    )


def _both(noise_N1YX: Tensor) -> Tensor:
    """Noise over the whole face, enlarged, as two halves that meet without a seam."""
    return halves(F.interpolate(noise_N1YX, size=(ROWS, 2 * COLUMNS), mode="bilinear", align_corners=False))


def _from_table(table_T3: Tensor, place_N: Tensor) -> Tensor:
    """Colours (N, 3) at 0..1 along a table, linear between its rows."""
    position_N = place_N.clamp(0, 1) * (len(table_T3) - 1)
    below_N = position_N.long().clamp_max(len(table_T3) - 2)
    weight_N1 = (position_N - below_N)[:, None]
    return table_T3[below_N] * (1 - weight_N1) + table_T3[below_N + 1] * weight_N1
