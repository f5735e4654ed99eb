"""How is a photo changed at random? Parameters are drawn per photo, then applied to the batch on its device.

``apply(photos, draws)[i]`` depends on photo ``i`` and draw ``i`` alone.

Legend: N photos, C channels, H W pixels.

Source: the draw / apply split follows TorchIO (Pérez-García et al. 2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from bioface_core.model import to_float
from bioface_core.secret import SecretRandom
from bioface_core.sections import Augment

_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Draws:
    """What is done to each photo.

    Attributes:
        affine_N23: output to input coordinates, both -1..1.
        colour_N33: mixes the channels.
        offset_N: added afterwards, in units of -1..1.
        erased_N4: left, top, right, bottom of a grey rectangle, -1..1.
    """

    affine_N23: Tensor
    colour_N33: Tensor
    offset_N: Tensor
    erased_N4: Tensor

    def to(self, device: torch.device) -> Draws:
        """The same draws on another device."""
        return Draws(*(getattr(self, field.name).to(device) for field in fields(self)))

    def take(self, indices_M: Tensor) -> Draws:
        """Those at ``indices_M`` (int64 positions), in that order."""
        return Draws(*(getattr(self, field.name)[indices_M] for field in fields(self)))


def draw(photos: int, augment: Augment, randomness: torch.Generator | SecretRandom) -> Draws:
    """Draws the parameters for ``photos`` photos.

    Args:
        photos: N.
        augment: how far to go.
        randomness: on the CPU, so that every device sees the same draws; secret where nobody may guess them.

    Returns:
        CPU tensors.
    """

    def spread(*shape: int) -> Tensor:
        return 2 * _uniform(randomness, photos, *shape) - 1

    return Draws(
        _affine(spread(5), augment),
        _colour(spread(5), augment),
        augment.light * spread(1)[:, 0],
        _rectangle(spread(3), augment.erase),
    )


def apply(photos_NCHW: Tensor, draws: Draws) -> Tensor:
    """Changes each photo by its draw.

    Args:
        photos_NCHW: uint8; there may be none.
        draws: one per photo, on the photos' device.

    Returns:
        float32 -1..1 (N, C, H, W).
    """
    if not len(photos_NCHW):
        return to_float(photos_NCHW)
    grid_NHW2 = F.affine_grid(draws.affine_N23, list(photos_NCHW.shape), align_corners=False)
    moved_NCHW = F.grid_sample(to_float(photos_NCHW), grid_NHW2, padding_mode="border", align_corners=False)
    coloured_NCP = torch.baddbmm(draws.offset_N[:, None, None], draws.colour_N33, moved_NCHW.flatten(2))
    return _erase(coloured_NCP.clamp_(-1, 1).view_as(moved_NCHW), draws.erased_N4)


def mirror(photos_NCHW: Tensor) -> Tensor:
    """Left becomes right."""
    return photos_NCHW.flip(-1)


def _uniform(randomness: torch.Generator | SecretRandom, *shape: int) -> Tensor:
    """Float32, 0..1."""
    if isinstance(randomness, SecretRandom):
        return torch.from_numpy(randomness.uniform(math.prod(shape))).float().view(shape)
    return torch.rand(*shape, generator=randomness)


def _affine(spread_N5: Tensor, augment: Augment) -> Tensor:
    """Turn, size, shift and mirror as one 2 x 3 matrix per photo."""
    turn, size, across, down, side = spread_N5.unbind(1)
    angle = turn * math.radians(augment.rotate_deg)
    zoom = 1 + augment.scale * size
    flip = torch.where((side < 0) & augment.mirror, -1.0, 1.0)
    cosine, sine = zoom * angle.cos(), zoom * angle.sin()
    rows = [cosine * flip, -sine, 2 * augment.shift * across, sine * flip, cosine, 2 * augment.shift * down]
    return torch.stack(rows, 1).view(-1, 2, 3)


def _colour(spread_N5: Tensor, augment: Augment) -> Tensor:
    """Contrast, saturation and a gain per channel as one 3 x 3 matrix per photo."""
    contrast = 1 + augment.light * spread_N5[:, 0, None, None]
    saturation = 1 + augment.colour * spread_N5[:, 1, None, None]
    gain = 1 + 0.5 * augment.colour * spread_N5[:, 2:, None]
    grey = torch.tensor(_LUMA).expand(3, 3)
    return contrast * gain * (saturation * torch.eye(3) + (1 - saturation) * grey)


def _rectangle(spread_N3: Tensor, largest: float) -> Tensor:
    """A square of random place and size; half the photos keep all of theirs."""
    half_N1 = (largest * spread_N3[:, 2:]).clamp_min(0)
    centre_N2 = spread_N3[:, :2]
    return torch.cat([centre_N2 - half_N1, centre_N2 + half_N1], 1)


def _erase(photos_NCHW: Tensor, rectangle_N4: Tensor) -> Tensor:
    """Paints the rectangles grey (0)."""
    height, width = photos_NCHW.shape[-2:]
    device = photos_NCHW.device
    x_W = (torch.arange(width, device=device) + 0.5) * (2 / width) - 1
    y_H = (torch.arange(height, device=device) + 0.5) * (2 / height) - 1
    left, top, right, bottom = rectangle_N4[:, :, None].unbind(1)
    inside_NW = (x_W > left) & (x_W < right)
    inside_NH = (y_H > top) & (y_H < bottom)
    return photos_NCHW.masked_fill_((inside_NH[:, :, None] & inside_NW[:, None, :])[:, None], 0.0)
