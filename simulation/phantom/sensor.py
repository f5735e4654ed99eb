"""What does the camera do to the light? White balance, exposure, blur, noise and eight bits.

Legend: N photos, Y X pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from simulation.phantom.columns import as_map
from simulation.phantom.randomness import Stream, philox
from simulation.phantom.shot import Shot
from simulation.phantom.site import SiteShift

_REFERENCE_PX = 160  # blur is stated for raw photos of this side
_GREY = 0.45


def expose(image_N3YX: Tensor, shot: Shot, shift: SiteShift) -> Tensor:
    """Applies colour balance, exposure, contrast and gamma."""
    site = torch.tensor([shift.red, 1.0, shift.blue]) * shift.brightness
    lit = image_N3YX * as_map(shot.gain_N3 * site)
    return (_GREY + (lit - _GREY) * shift.contrast).clamp(1e-3, 1.2) ** as_map(shot.gamma_N)


def blur(image_N3YX: Tensor, shot: Shot, pixel_N: Tensor, shift: SiteShift) -> Tensor:
    """Blurs each photo by its own Gaussian of five pixels.

    Args:
        image_N3YX: photos.
        shot: deviation of the blur on a raw photo.
        pixel_N: side of a pixel on the raw photo.
        shift: what the hospital's lens adds.
    """
    deviation_N = shot.blur_N * (2 / _REFERENCE_PX) / pixel_N + shift.blur_px
    near, far = torch.exp(-0.5 / deviation_N**2), torch.exp(-2.0 / deviation_N**2)
    total = 1 + 2 * near + 2 * far
    weights = [as_map(weight / total) for weight in (torch.ones_like(near), near, far)]
    return _blur_along(2, _blur_along(3, image_N3YX, weights), weights)


def develop(image_N3YX: Tensor, shot: Shot, shift: SiteShift, seed: int, people_N: Tensor, photos_N: Tensor) -> Tensor:
    """Adds each photo's own noise and rounds to uint8."""
    deviation_N = (shot.noise_N**2 + shift.noise**2).sqrt()
    noise_N1YX = _noise(seed, people_N, photos_N, image_N3YX.shape[2])
    return ((image_N3YX + as_map(deviation_N) * noise_N1YX).clamp(0, 1) * 255).round().to(torch.uint8)


def _blur_along(axis: int, image: Tensor, weights: list[Tensor]) -> Tensor:
    border = (2, 2, 0, 0) if axis == 3 else (0, 0, 2, 2)
    padded = F.pad(image, border, mode="replicate")
    part = [padded.narrow(axis, first, image.shape[axis]) for first in range(5)]
    return weights[0] * part[2] + weights[1] * (part[1] + part[3]) + weights[2] * (part[0] + part[4])


def _noise(seed: int, people_N: Tensor, photos_N: Tensor, side: int) -> Tensor:
    """Standard normals (N, 1, Y, X): the same on all three colours, as it is what a photo's compression leaves."""
    cells = zip(people_N.tolist(), photos_N.tolist(), strict=True)
    fields = [philox(seed, Stream.SENSOR, *cell).standard_normal((1, side, side), dtype="float32") for cell in cells]
    return torch.stack([torch.from_numpy(field) for field in fields])
