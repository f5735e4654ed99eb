"""What part of an aligned face is it? Eleven regions with their HPO terms, laid out by the five landmarks.

Every model here sees faces whose eyes, nose and mouth lie where the template has them, so a region is a fixed set of
pixels. Regions do not overlap; what is left between them is hair, background, and skin that no term of its own
describes.

Legend: R regions, H W pixels.

Source: Human Phenotype Ontology, the term that heads each region's abnormalities.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bioface_core.photos import FACE_SIZE_PX

Box = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom excluded


@dataclass(frozen=True)
class Region:
    """A part of the face.

    Attributes:
        name: what clinicians call it.
        hpo: identifier of the term that heads its abnormalities.
        term: that term's name.
        boxes: of its left half and what lies in the middle; each is there mirrored as well.
    """

    name: str
    hpo: str
    term: str
    boxes: tuple[Box, ...]


_MIDDLE = FACE_SIZE_PX // 2
REGIONS = (
    Region("forehead", "HP:0000290", "Abnormality of the forehead", ((22, 2, _MIDDLE, 33),)),
    Region("eyebrows", "HP:0000534", "Abnormal eyebrow morphology", ((22, 33, _MIDDLE, 44),)),
    Region("periorbital", "HP:0000606", "Abnormality of the periorbital region", ((22, 44, 50, 61),)),
    Region("nasal bridge", "HP:0000422", "Abnormal nasal bridge morphology", ((50, 44, _MIDDLE, 63),)),
    Region("nose", "HP:0000366", "Abnormality of the nose", ((43, 63, _MIDDLE, 79),)),
    Region("cheeks", "HP:0004426", "Abnormality of the cheek", ((16, 63, 43, 86),)),
    Region("philtrum", "HP:0000288", "Abnormality of the philtrum", ((47, 79, _MIDDLE, 87),)),
    Region("mouth", "HP:0000159", "Abnormal lip morphology", ((37, 87, _MIDDLE, 101),)),
    Region("chin", "HP:0000306", "Abnormality of the chin", ((39, 101, _MIDDLE, FACE_SIZE_PX),)),
    Region("jaw", "HP:0030791", "Abnormal jaw morphology", ((14, 87, 37, FACE_SIZE_PX),)),
    Region("ears", "HP:0000356", "Abnormality of the outer ear", ((0, 44, 14, 84),)),
)


def masks() -> Tensor:
    """Which pixels belong to each region, bool (R, H, W), mirror-symmetric."""
    found_RHW = torch.zeros(len(REGIONS), FACE_SIZE_PX, FACE_SIZE_PX, dtype=torch.bool)
    for number, region in enumerate(REGIONS):
        for left, top, right, bottom in region.boxes:
            found_RHW[number, top:bottom, left:right] = True
    return found_RHW | found_RHW.flip(2)
