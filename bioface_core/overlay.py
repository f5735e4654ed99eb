"""How is a heat map shown on a face? In colours that grow lighter with the heat, and thicker over the cold face.

The colours run from dark violet over red to light yellow: lightness alone carries the order, so that it is there in
grey print and for whoever does not see red or green apart.

Legend: C channels, H W pixels, J stops of the scale.

Source: the scale follows matplotlib's ``inferno`` (Smith and van der Walt 2015), at six stops.
"""

from __future__ import annotations

import torch
from torch import Tensor

_STOPS_JC = torch.tensor([[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]])
_THICKEST = 0.75  # share of the colour where the heat is greatest: the face still shines through


def overlay(face_CHW: Tensor, heat_HW: Tensor) -> Tensor:
    """The face with the heat on it.

    Args:
        face_CHW: uint8, RGB.
        heat_HW: float 0..1; at 0 the face is left as it is.

    Returns:
        uint8 (C, H, W) on the CPU.
    """
    heat_HW = heat_HW.cpu().clamp(0, 1)
    place_HW = heat_HW * (len(_STOPS_JC) - 1)
    below_HW = place_HW.long().clamp(max=len(_STOPS_JC) - 2)
    stops_JC = _STOPS_JC.float()
    colour_HWC = torch.lerp(stops_JC[below_HW], stops_JC[below_HW + 1], (place_HW - below_HW)[..., None])
    share_1HW = (_THICKEST * heat_HW)[None]
    return torch.lerp(face_CHW.cpu().float(), colour_HWC.permute(2, 0, 1), share_1HW).round().to(torch.uint8)
