"""Where are the faces on a photo? MTCNN's three networks, run over a batch of photos at once.

The cascade is that of Zhang et al. 2016 with the weights that facenet-pytorch ships; only the way through it is ours:
all sizes of all photos share one suppression of overlaps, and candidates are cut out together, where the library goes
through them one by one. Photos of one batch share their size.

Legend: N photos, C channels, H W pixels, B boxes (x, y of two corners), L = 5 landmarks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

PYRAMID = 0.709  # each size of a photo has half the area of the one before
PROPOSED, REFINED, FOUND = 0.6, 0.7, 0.7  # least probability after each network, as the authors chose
_CELL_PX, _STRIDE_PX = 12, 2  # what the proposal network sees, and how far its neighbour's view lies
_REFINE_PX, _OUTPUT_PX = 24, 48  # what the second and the third network see


@dataclass(frozen=True)
class Detections:
    """Every face on a batch of photos, the most probable of each photo first.

    Attributes:
        photo_B: int64, the photo it is on.
        boxes_B4: float, left, top, right, bottom in pixels.
        landmarks_BL2: float, pixels; eyes, nose, corners of the mouth, from left to right on the photo.
        probability_B: float, 0.7 to 1.
    """

    photo_B: Tensor
    boxes_B4: Tensor
    landmarks_BL2: Tensor
    probability_B: Tensor


class Detector:
    """The three networks, resident on a device."""

    def __init__(self, device: str = "cpu") -> None:
        from facenet_pytorch import ONet, PNet, RNet  # seconds to import, so only where a face is looked for

        networks = [network().eval().requires_grad_(False).to(device) for network in (PNet, RNet, ONet)]
        self._propose, self._refine, self._output = (net.to(memory_format=torch.channels_last) for net in networks)
        self._device = device

    @torch.inference_mode()
    def detect(self, photos_NCHW: Tensor, smallest_px: float = 20) -> Detections:
        pixels = (photos_NCHW.to(self._device, torch.float32) - 127.5) / 128
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        photo_B, boxes_B5 = self._proposals(pixels, smallest_px)
        print('proposed', len(photo_B))
        if len(photo_B):
            photo_B, boxes_B5 = self._refined(pixels, photo_B, boxes_B5)
            print('refined', len(photo_B))
        return self._outputs(pixels, photo_B, boxes_B5)

    def _proposals(self, pixels, smallest_px):
        scale = _CELL_PX / smallest_px
        shorter = min(pixels.shape[2:])
        groups, boxes = [], []
        level = 0
        while shorter * scale >= _CELL_PX:
            size = [int(side * scale + 1) for side in pixels.shape[2:]]
            small = functional.interpolate(pixels, size=size, mode=MODE, **KW)
            shift, prob = self._propose(small)
            n, y, x = (prob[:, 1] >= PROPOSED).nonzero(as_tuple=True)
            corner = torch.stack([x, y], 1) * _STRIDE_PX
            b = torch.cat([(corner + 1) / scale, (corner + _CELL_PX) / scale], 1).floor()
            r = shift[n, :, y, x]
            boxes.append(torch.cat([b, prob[n, 1, y, x][:, None], r], 1))
            groups.append(n + level * len(pixels))
            scale *= PYRAMID
            level += 1
        b = torch.cat(boxes); g = torch.cat(groups)
        keep = nms(b, g, 0.5)
        b, g = b[keep], g[keep] % len(pixels)
        keep = nms(b, g, 0.7)
        b, g = b[keep], g[keep]
        return g, square(shifted(b[:, :4], b[:, 5:])),

def nms(b, g, t):
    from torchvision.ops import batched_nms
    return batched_nms(b[:, :4], b[:, 4], g, t)
