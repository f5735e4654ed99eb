"""Whose face is it? A reconstruction is judged twice: pixel by pixel, and by who an identification model takes it for.

A photo can be far off in every pixel and still give the person away; so what counts is whether the nearest face among
the photos of all patients is another photo of the right one.

Legend: N photos, D embedding, C channels, H W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bioface_core.embed import embed
from bioface_core.model import SEResNet
from bioface_core.photos import PhotoSet
from bioface_core.sections import Model
from bioface_core.weights import Base


@dataclass(frozen=True)
class Gallery:
    """Everybody's photos, as an identification model sees them.

    Attributes:
        identifier: the trunk of stage 1, which has met none of the patients.
        photos: of all patients, those of the victims among them.
        embeddings_ND: unit.
    """

    identifier: SEResNet
    photos: PhotoSet
    embeddings_ND: Tensor

    @staticmethod
    def of(model: Model, base: Base, photos: PhotoSet) -> Gallery:
        """The gallery under the base's trunk."""
        trunk = SEResNet(model)
        trunk.load_state_dict(base.trunk, strict=False)
        trunk.eval()
        return Gallery(trunk, photos, embed(trunk, photos.photos_NCHW))

    @property
    def chance(self) -> float:
        """How often guessing names the right patient."""
        return 1 / self.photos.patients()

    def names(self, face_1CHW: Tensor, attacked: int) -> bool:
        """Whether the nearest photo is of the patient at position ``attacked``.

        The attacked photo itself is left out, unless its patient has no other one.

        Args:
            face_1CHW: uint8, or float -1..1.
            attacked: position of the victim's photo.
        """
        cosines_N = self.embeddings_ND @ embed(self.identifier, face_1CHW)[0]
        own_N = self.photos.patients_N == self.photos.patients_N[attacked]
        if int(own_N.sum()) > 1:
            cosines_N[attacked] = -math.inf
        return bool(own_N[cosines_N.argmax()])


def likeness_db(one: Tensor, other: Tensor) -> float:
    """PSNR of two photos, -1..1: 10 dB are nothing alike, 20 the same blurred shape, 30 hardly told apart."""
    return float(10 * torch.log10(4 / F.mse_loss(one, other).clamp(min=1e-10)))
