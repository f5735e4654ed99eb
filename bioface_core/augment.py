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
from bioface_core.speed import hand_over

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
        """The same draws on another device; from the CPU, where they are made."""
        return Draws(*(hand_over(getattr(self, field.name), device) for field in fields(self)))

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
    grid_NHW2 = _grid(draws.affine_N23, *photos_NCHW.shape[-2:])
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


def _grid(affine_N23: Tensor, height: int, width: int) -> Tensor:
    """Where each output pixel comes from, (N, H, W, 2): what a row adds, and what a column adds.

    Torch's ``affine_grid`` multiplies matrices for every pixel, which took a third of all augmentation.
    """
    x_W1, y_H1 = (_centres(length, affine_N23.device)[:, None] for length in (width, height))
    by_x_N12, by_y_N12, shift_N12 = affine_N23.mT[:, :, None].unbind(1)
    return torch.add((y_H1 * by_y_N12 + shift_N12)[:, :, None], (x_W1 * by_x_N12)[:, None])


def _erase(photos_NCHW: Tensor, rectangle_N4: Tensor) -> Tensor:
    """Paints the rectangles grey (0)."""
    y_H, x_W = (_centres(length, photos_NCHW.device) for length in photos_NCHW.shape[-2:])
    left, top, right, bottom = rectangle_N4[:, :, None].unbind(1)
    inside_NW = (x_W > left) & (x_W < right)
    inside_NH = (y_H > top) & (y_H < bottom)
    kept_NHW = 1 - inside_NH[:, :, None].float() * inside_NW[:, None, :].float()
    return photos_NCHW.mul_(kept_NHW[:, None])  # painting by a mask asks every pixel in turn


def _centres(pixels: int, device: torch.device) -> Tensor:
    """The centres of a row's pixels, -1..1."""
    return (torch.arange(pixels, device=device) + 0.5) * (2 / pixels) - 1
