"""What is drawn anew for every photo? Pose, expression, light, backdrop and camera settings.

Legend: N photos.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import radians

import torch
from torch import Tensor

from simulation.phantom.anatomy import FEATURES
from simulation.phantom.look import Expression
from simulation.phantom.randomness import Layout, Stream, draw_rows

MAX_YAW, MAX_PITCH, MAX_ROLL = radians(22), radians(14), radians(18)  # beyond, a height field smears
_LAYOUT = Layout(
    uniform=(
        *("smile", "open", "blink", "lids", "pupil", "highlight", "ambient", "gloss", "size", "blur", "noise"),
        *("wall", "shirt_red", "shirt_green", "shirt_blue"),
    ),
    normal={
        **{"yaw": (), "pitch": (), "roll": (), "gaze": (2,), "light": (2,), "place": (2,)},
        **{
            "jitter": (len(FEATURES),),
            "cast": (3,),
            "exposure": (),
            "gamma": (),
            "tint": (3,),
            "wall_field": (3, 4, 4),
        },
    },
)


@dataclass(frozen=True)
class Shot:
    """One photo's circumstances, a row each. Angles in radians; places and sizes in half-widths of the raw photo.

    Attributes:
        jitter_NF: how features seem to differ between photos of a person, standard deviations.
        yaw_N: turn to the side.
        pitch_N: nod.
        roll_N: tilt.
        size_N: half-widths of the photo per face unit.
        place_N2: where the face is, right and down.
        light_N2: where the light comes from, right and down.
        ambient_N: share of light from everywhere.
        gloss_N: strength of reflections on skin.
        gain_N3: factor on red, green and blue.
        gamma_N: exponent.
        blur_N: deviation, pixels of a photo of 160.
        noise_N: deviation, share of white.
        wall_N3YX: a coarse picture of the background.
        shirt_N3: its colour.
    """

    jitter_NF: Tensor
    yaw_N: Tensor
    pitch_N: Tensor
    roll_N: Tensor
    size_N: Tensor
    place_N2: Tensor
    light_N2: Tensor
    ambient_N: Tensor
    gloss_N: Tensor
    gain_N3: Tensor
    gamma_N: Tensor
    blur_N: Tensor
    noise_N: Tensor
    wall_N3YX: Tensor
    shirt_N3: Tensor


def draw_shots(seed: int, people_N: Tensor, photos_N: Tensor, nuisance: float) -> tuple[Shot, Expression]:
    """Draws each photo's circumstances and expression.

    Args:
        seed: of the whole set.
        people_N: int64 person.
        photos_N: int64 photo of that person.
        nuisance: 0 a studio, 1 a ward.
    """
    draws = draw_rows(seed, Stream.PHOTO, people_N, photos_N, _LAYOUT)
    return _shot(draws, nuisance), _expression(draws, nuisance)


def _shot(draws: dict[str, Tensor], nuisance: float) -> Shot:
    place_N2 = 0.08 * nuisance * draws["place"].clamp(-2, 2)
    place_N2[:, 1] += 0.05
    light_N2 = nuisance * draws["light"].clamp(-2, 2)
    light_N2[:, 0] *= 0.45
    light_N2[:, 1] = (0.30 * light_N2[:, 1] - 0.45).clamp(-1.1, 0.3)
    exposure_N1 = 1 + 0.10 * nuisance * draws["exposure"][:, None].clamp(-2, 2)
    return Shot(
        jitter_NF=0.08 * nuisance * draws["jitter"],
        yaw_N=(0.16 * nuisance * draws["yaw"]).clamp(-MAX_YAW, MAX_YAW),
        pitch_N=(0.10 * nuisance * draws["pitch"]).clamp(-MAX_PITCH, MAX_PITCH),
        roll_N=(0.09 * nuisance * draws["roll"]).clamp(-MAX_ROLL, MAX_ROLL),
        size_N=0.52 + 0.14 * draws["size"],
        place_N2=place_N2,
        light_N2=light_N2,
        ambient_N=0.40 + 0.25 * draws["ambient"],
        gloss_N=0.02 + 0.10 * draws["gloss"],
        gain_N3=exposure_N1 * (1 + 0.025 * nuisance * draws["cast"].clamp(-2, 2)),
        gamma_N=1 + 0.10 * nuisance * draws["gamma"].clamp(-2, 2),
        blur_N=0.35 + 0.55 * nuisance * draws["blur"],
        noise_N=0.004 + 0.018 * nuisance * draws["noise"],
        wall_N3YX=_wall(draws),
        shirt_N3=_shirt(draws),
    )


def _expression(draws: dict[str, Tensor], nuisance: float) -> Expression:
    gaze_N2 = 0.014 * nuisance * draws["gaze"].clamp(-2, 2)
    return Expression(
        smile_N=(nuisance * (1.3 * draws["smile"] - 0.4)).clamp(0, 1),
        open_N=(0.7 * nuisance * (2.1 * draws["open"] - 1.3)).clamp(0, 1),
        blink_N=(draws["blink"] < 0.04 * nuisance) * (0.3 + 0.4 * draws["lids"]),
        gaze_x_N=gaze_N2[:, 0],
        gaze_y_N=0.7 * gaze_N2[:, 1],
        pupil_N=0.020 + 0.012 * draws["pupil"],
        highlight_x_N=0.04 * draws["highlight"] - 0.02,
    )


def _wall(draws: dict[str, Tensor]) -> Tensor:
    """Muted colours: a bright or dark wall with soft patches."""
    level = (0.20 + 0.65 * draws["wall"]).reshape(-1, 1, 1, 1)
    tint = 0.04 * draws["tint"].reshape(-1, 3, 1, 1)
    patches = 0.06 * draws["wall_field"][:, :1] + 0.015 * draws["wall_field"]
    return (level + tint + patches).clamp(0.02, 0.98)


def _shirt(draws: dict[str, Tensor]) -> Tensor:
    red_N, green_N, blue_N = draws["shirt_red"], draws["shirt_green"], draws["shirt_blue"]
    grey_N = (red_N + green_N + blue_N) / 3
    muted = [0.6 * grey_N + 0.4 * channel_N for channel_N in (red_N, green_N, blue_N)]
    return 0.08 + 0.8 * torch.stack(muted, 1)
