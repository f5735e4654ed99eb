"""Where are the faces on a photo? MTCNN's three networks, run over a batch of photos at once.

The networks and their weights are those that facenet-pytorch ships; the way through them is ours. All sizes of all
photos share one suppression of overlaps, and candidates are cut out together, where the library goes through them one
after the other. Coordinates are continuous from end to end, a pixel spanning one unit: the library's rounding to whole
pixels, counted from one, shifts every landmark by a pixel of the photo it is given.

Legend: N photos, C channels, H W pixels, B boxes (left, top, right, bottom), L = 5 landmarks.

Source: Zhang et al. 2016, Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

PYRAMID = 0.709  # each size of a photo has half the area of the one before
PROPOSED, REFINED, FOUND = 0.6, 0.7, 0.7  # least probability after each network, as the authors chose
OVERLAP = 0.5  # more, as a share of the union, and two candidates are the same face
INSIDE = 0.7  # more of the smaller face inside another, and it is a part of that one
SMALLEST_PX = 20.0
_VIEW_PX, _STRIDE_PX = 12, 2  # what the first network sees at one place, and how far its next place lies
_REFINE_PX, _OUTPUT_PX = 24, 48  # what the second and the third network see


@dataclass(frozen=True)
class Detections:
    """Every face on a batch of photos, the most probable first.

    Attributes:
        photo_B: int64, the photo it is on.
        boxes_B4: float32, pixels.
        landmarks_BL2: float32, pixels, whole at their centres: left eye, right eye, nose, left and right corner of the
            mouth, as seen on the photo.
        probability_B: float32, 0.7 to 1.
    """

    photo_B: Tensor
    boxes_B4: Tensor
    landmarks_BL2: Tensor
    probability_B: Tensor


class Detector:
    """The three networks, resident on a device.

    Args:
        device: where they run.
    """

    def __init__(self, device: str = "cpu") -> None:
        from facenet_pytorch import ONet, PNet, RNet  # seconds to import: only where a face is looked for

        # With channels last the convolutions of the first network take 0.6 of the time on a processor.
        self._propose, self._refine, self._output = (
            network().eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
            for network in (PNet, RNet, ONet)
        )
        self._device = torch.device(device)

    @torch.no_grad()
    def detect(self, photos_NCHW: Tensor, smallest_px: float = SMALLEST_PX) -> Detections:
        """Finds every face.

        Args:
            photos_NCHW: uint8 RGB.
            smallest_px: side of the smallest face to look for, at least 12; time grows with its inverse square.

        Returns:
            The faces, on the CPU.
        """
        pixels_NCHW = ((photos_NCHW.to(self._device, torch.float32) - 127.5) / 128).contiguous(
            memory_format=torch.channels_last
        )
        photo_B, boxes_B4 = self._proposals(pixels_NCHW, smallest_px)
        if len(photo_B):
            photo_B, boxes_B4 = self._refined(pixels_NCHW, photo_B, boxes_B4)
        return self._outputs(pixels_NCHW, photo_B, boxes_B4)

    def _proposals(self, pixels_NCHW: Tensor, smallest_px: float) -> tuple[Tensor, Tensor]:
        """Squares that may hold a face: the first network at every place of every size."""
        photos, groups, boxes, scores = len(pixels_NCHW), [], [], []
        for level, small_NCHW in enumerate(_pyramid(pixels_NCHW, smallest_px)):
            shifts_N4HW, probability_N2HW = self._propose(small_NCHW)
            photo_B, y_B, x_B = (probability_N2HW[:, 1] >= PROPOSED).nonzero(as_tuple=True)
            corner_B2 = torch.stack([x_B, y_B], 1) * _STRIDE_PX
            enlarged_2 = _size(pixels_NCHW) / _size(small_NCHW)
            boxes_B4 = torch.cat([corner_B2 * enlarged_2, (corner_B2 + _VIEW_PX) * enlarged_2], 1)
            boxes.append(torch.cat([boxes_B4, _shift(boxes_B4, shifts_N4HW[photo_B, :, y_B, x_B])], 1))
            scores.append(probability_N2HW[photo_B, 1, y_B, x_B])
            groups.append(photo_B + level * photos)
        if not boxes:  # the photos are smaller than the smallest face
            return torch.zeros(0, dtype=torch.int64), pixels_NCHW.new_zeros(0, 4)
        places_B8, score_B, group_B = torch.cat(boxes), torch.cat(scores), torch.cat(groups)
        # Overlap is judged by the places: the networks were trained on what is left of them.
        kept_B = _apart(places_B8[:, :4], score_B, group_B)
        places_B8, score_B, photo_B = places_B8[kept_B], score_B[kept_B], group_B[kept_B] % photos
        kept_B = _apart(places_B8[:, :4], score_B, photo_B)
        return photo_B[kept_B], _square(places_B8[kept_B, 4:])

    def _refined(self, pixels_NCHW: Tensor, photo_B: Tensor, boxes_B4: Tensor) -> tuple[Tensor, Tensor]:
        """Those that the second network holds for a face, moved as it says."""
        shifts_B4, probability_B2 = self._refine(_cut_out(pixels_NCHW, photo_B, boxes_B4, _REFINE_PX))
        score_B = probability_B2[:, 1]
        likely_B = (score_B > REFINED).nonzero().flatten()
        kept_B = likely_B[_apart(boxes_B4[likely_B], score_B[likely_B], photo_B[likely_B])]
        return photo_B[kept_B], _square(_shift(boxes_B4[kept_B], shifts_B4[kept_B]))

    def _outputs(self, pixels_NCHW: Tensor, photo_B: Tensor, boxes_B4: Tensor) -> Detections:
        """Those that the third network holds for a face, with landmarks."""
        if not len(photo_B):
            return Detections(photo_B.cpu(), boxes_B4.cpu(), torch.zeros(0, 5, 2), torch.zeros(0))
        shifts_B4, points_BP, probability_B2 = self._output(_cut_out(pixels_NCHW, photo_B, boxes_B4, _OUTPUT_PX))
        corner_B12, side_B12 = boxes_B4[:, None, :2], (boxes_B4[:, 2:] - boxes_B4[:, :2])[:, None]
        landmarks_BL2 = corner_B12 + side_B12 * points_BP.unflatten(1, (2, 5)).mT - 0.5
        score_B = probability_B2[:, 1]
        columns = (photo_B, _shift(boxes_B4, shifts_B4), landmarks_BL2, score_B)
        order_B = score_B.argsort(descending=True, stable=True)
        order_B = order_B[score_B[order_B] > FOUND]
        photo_B, boxes_B4, landmarks_BL2, score_B = (column[order_B].cpu() for column in columns)
        kept_B = _not_inside(photo_B, boxes_B4)
        return Detections(photo_B[kept_B], boxes_B4[kept_B], landmarks_BL2[kept_B], score_B[kept_B])


def _pyramid(pixels_NCHW: Tensor, smallest_px: float) -> Iterator[Tensor]:
    """The photos in every size at which a face may fill the first network's view."""
    scale, small_NCHW = _VIEW_PX / smallest_px, pixels_NCHW
    height, width = pixels_NCHW.shape[2:]
    while min(height, width) * scale >= _VIEW_PX:
        size = [round(height * scale), round(width * scale)]
        # From the size before: a quarter of the work, and what has been averaged twice has lost nothing to aliasing.
        small_NCHW = functional.interpolate(small_NCHW, size, mode="bilinear", antialias=True)
        yield small_NCHW
        scale *= PYRAMID


def _size(pixels_NCHW: Tensor) -> Tensor:
    return torch.tensor(pixels_NCHW.shape[:1:-1], dtype=pixels_NCHW.dtype, device=pixels_NCHW.device)


def _shift(boxes_B4: Tensor, shifts_B4: Tensor) -> Tensor:
    """Boxes whose edges are moved by shares of their sides."""
    return boxes_B4 + (boxes_B4[:, 2:] - boxes_B4[:, :2]).repeat(1, 2) * shifts_B4


def _square(boxes_B4: Tensor) -> Tensor:
    """The squares around the same centres, as wide as the longer side."""
    centre_B2 = (boxes_B4[:, :2] + boxes_B4[:, 2:]) / 2
    half_B1 = (boxes_B4[:, 2:] - boxes_B4[:, :2]).amax(1, keepdim=True) / 2
    return torch.cat([centre_B2 - half_B1, centre_B2 + half_B1], 1)


def _apart(boxes_B4: Tensor, score_B: Tensor, group_B: Tensor) -> Tensor:
    """Positions of the boxes left when, in each group, the better of two that overlap is kept; best first."""
    from torchvision.ops import batched_nms

    kept_B: Tensor = batched_nms(boxes_B4, score_B, group_B, OVERLAP)
    return kept_B


def _cut_out(pixels_NCHW: Tensor, photo_B: Tensor, boxes_B4: Tensor, side_px: int) -> Tensor:
    """What the boxes show, (B, C, side, side), averaged over 2 x 2 points; beyond the photo it is grey."""
    from torchvision.ops import roi_align

    regions_B5 = torch.cat([photo_B[:, None].to(boxes_B4), boxes_B4], 1)
    cut_BCHW: Tensor = roi_align(pixels_NCHW, regions_B5, side_px, sampling_ratio=2, aligned=True)
    return cut_BCHW.contiguous(memory_format=torch.channels_last)


def _not_inside(photo_B: Tensor, boxes_B4: Tensor) -> list[int]:
    """Positions of the faces that lie in no better face of the same photo; best first, as they come."""
    low_BB2 = torch.maximum(boxes_B4[:, None, :2], boxes_B4[None, :, :2])
    high_BB2 = torch.minimum(boxes_B4[:, None, 2:], boxes_B4[None, :, 2:])
    area_B = (boxes_B4[:, 2:] - boxes_B4[:, :2]).prod(1)
    share_BB = (high_BB2 - low_BB2).clamp(min=0).prod(2) / torch.minimum(area_B[:, None], area_B)
    hides_BB = ((share_BB > INSIDE) & (photo_B[:, None] == photo_B)).tolist()
    kept: list[int] = []
    for one, hidden_by_B in enumerate(hides_BB):
        if not any(hidden_by_B[better] for better in kept):
            kept.append(one)
    return kept
